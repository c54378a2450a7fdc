"""A model soup: the average of several checkpoints of a run, as far as the validation split agrees."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_imgcls.compat.models import restore_weights
from hf_imgcls.fit.checkpoints import list_checkpoints
from hf_imgcls.fit.mirror import mirror_folder
from hf_imgcls.fit.stopping import decide_on_main

if TYPE_CHECKING:
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)


def average_checkpoints(trainer: ImageClassificationTrainer, folder: Path) -> list[str]:
    """Average the weights of checkpoints, from the best one on, and leave the average in the model.

    A checkpoint is taken in only if the average is then at least as good on the validation split. Called on every
    process, after training; the checkpoints still lie in the run's folder.

    Args:
        trainer: After training; ``metric_for_best_model`` and ``greater_is_better`` decide.
        folder: The run's folder.

    Returns:
        Names of the checkpoints that are in it, the best one first; none where none was saved.

    Source:
        Wortsman et al. (2022), "Model soups", https://arxiv.org/abs/2203.05482, recipe 1 (greedy soup).
    """
    checkpoints = [mirror_folder(path) for path in decide_on_main(lambda: list_checkpoints(folder))]
    if not checkpoints:  # a run shorter than the time to the first one
        logger.warning("No soup: no checkpoint was saved.")
        return []
    name = f"eval_{str(trainer.args.metric_for_best_model).removeprefix('eval_')}"
    sign = 1 if trainer.args.greater_is_better else -1
    scores, weights = {}, {}
    for checkpoint in checkpoints:
        restore_weights(trainer.model, str(checkpoint))
        scores[checkpoint.name] = sign * trainer.evaluate()[name]
        weights[checkpoint.name] = _copy_weights(trainer)
    latest_first = list(scores)[::-1]  # of two equals, the one that was trained longer
    order = sorted(latest_first, key=lambda checkpoint: -scores[checkpoint])
    soup, best = [order[0]], scores[order[0]]
    for candidate in order[1:]:
        _pour(trainer, [weights[checkpoint] for checkpoint in (*soup, candidate)])
        score = sign * trainer.evaluate()[name]
        if score >= best:
            soup, best = [*soup, candidate], score
    _pour(trainer, [weights[checkpoint] for checkpoint in soup])
    logger.info(
        "Soup of %d of %d checkpoints: %s %.4f, that of the best one alone %.4f (%s)",
        len(soup), len(order), name, sign * best, sign * scores[order[0]], ", ".join(soup),
    )  # fmt: skip
    return soup


def _copy_weights(trainer: ImageClassificationTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in trainer.model.state_dict().items()}


@torch.no_grad()
def _pour(trainer: ImageClassificationTrainer, ingredients: list[dict[str, torch.Tensor]]) -> None:
    """Give the model the mean of the weights; whole numbers, which count batches, are those of the first."""
    for name, tensor in trainer.model.state_dict().items():
        values = [weights[name] for weights in ingredients]
        tensor.copy_(torch.stack(values).mean(dim=0) if tensor.is_floating_point() else values[0])
