"""``--adaptation auto``: a linear probe, and a fine-tuned model in its place only where validation says that it pays.

Two questions are asked, both on the same validation images, with exact binomial intervals. Before: does the probe err
often enough that a gain could be told from chance at all? After: of the images on which probe and fine-tuned model
differ, is the fine-tuned one right on certainly more than half?
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from scipy.stats import binomtest

from hf_imgcls.fit.evaluation import build_eval_dataloader, evaluate_batches
from hf_imgcls.fit.probe import Features, compute_features, train_probe

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers.trainer_utils import TrainOutput

    from hf_imgcls.arguments import Arguments
    from hf_imgcls.data.load import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)

_LEVEL = 0.95
_NEIGHBOURS, _TEMPERATURE = 20, 0.07
_MOST_ASKED = 1000  # validation images whose neighbours are looked for, at the cost of N products each


def climb(
    trainer: ImageClassificationTrainer,
    dataset: ImageDataset,
    batches: BatchPlan,
    args: Arguments,
    resume_from_checkpoint: str | None,
) -> TrainOutput:
    """Probe, then fine-tune from the probe's head if that can pay, and keep it if it did.

    Args:
        trainer: Its model ends as the one that is kept; where that is the probe, without an adapter.
        dataset: As for `train_probe`.
        batches: As for `train_probe`.
        args: ``fit.auto_finetune`` and what `train_probe` reads.
        resume_from_checkpoint: Of the fine-tuning. The probe before it is made again, which takes seconds.

    Returns:
        Of the training that is kept.
    """
    result = train_probe(trainer, dataset, batches, args)
    train, validation = (compute_features(trainer, dataset, batches, args, role) for role in ("train", "validation"))
    neighbours = ask_neighbours(train, validation, len(dataset.labels), trainer.args.device)
    probe = _judge(trainer)
    logger.info("auto, on validation, with %.0f %% intervals:", 100 * _LEVEL)
    _tell(f"{_NEIGHBOURS} nearest neighbours", neighbours)
    _tell("linear probe", probe)
    num_errors = int((~probe).sum())
    if not can_pay(num_errors):
        logger.info("  the probe errs on %d images: no gain could be told from chance, and it is kept", num_errors)
        return _keep_probe(trainer, result)
    kept = {name: tensor.detach().cpu().clone() for name, tensor in trainer.model.state_dict().items()}
    tuned_result = trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    tuned = _judge(trainer)
    _tell(args.fit.auto_finetune, tuned)
    won, decided = int((tuned & ~probe).sum()), int((tuned != probe).sum())
    verdict, share = did_pay(won, decided)
    logger.info(
        "  they differ on %d images, and the fine-tuned model is right on %d of them%s: %s is kept",
        decided, won, share, "it" if verdict else "that does not pay, the probe",
    )  # fmt: skip
    if verdict:
        return tuned_result
    trainer.model.load_state_dict(kept)
    return _keep_probe(trainer, result)


def can_pay(num_errors: int) -> bool:
    """Whether a model that mended every error of the probe, and made none, would be told from chance."""
    return num_errors > 0 and did_pay(num_errors, num_errors)[0]


def did_pay(won: int, decided: int) -> tuple[bool, str]:
    """Judge a model by the images on which it and another one differ: an exact sign test (McNemar's).

    Args:
        won: Images that it alone has right.
        decided: Images that one of the two alone has right.

    Returns:
        Whether it is certainly right on more than half of them, and its share's interval in words.

    Source: Clopper and Pearson (1934), "The use of confidence or fiducial limits", Biometrika 26, 404-413.
    """
    if not decided:
        return False, ""
    interval = binomtest(won, decided).proportion_ci(_LEVEL, method="exact")
    return interval.low > 0.5, f" (share {interval.low:.2f} to {interval.high:.2f})"


def ask_neighbours(train: Features, validation: Features, num_classes: int, device: torch.device) -> NDArray[np.bool_]:
    """Whether the training images most like a validation image have its class, without any training.

    The vote of each neighbour is weighted by its cosine similarity.

    Args:
        train: Are asked.
        validation: Are asked about; of many, a thousand that lie evenly.
        num_classes: K.
        device: Where similarities are computed.

    Returns:
        bool ``(n,)``.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination"
        (arXiv:1805.01978), section 3.4; k and temperature as in Caron et al. 2021, "DINO" (arXiv:2104.14294).
    """
    rows = np.arange(0, len(validation), -(-len(validation) // _MOST_ASKED))
    asked = torch.nn.functional.normalize(torch.from_numpy(validation.values[rows].astype(np.float64)).to(device))
    number = min(_NEIGHBOURS, len(train))
    similarity = torch.full((len(rows), 0), 0.0, dtype=torch.float64, device=device)
    labels = torch.zeros(len(rows), 0, dtype=torch.int64, device=device)
    for values, own in train.chunks(device):  # the nearest of what was seen so far
        all_similar = torch.cat([similarity, asked @ torch.nn.functional.normalize(values).T], dim=1)
        all_labels = torch.cat([labels, own.expand(len(rows), -1)], dim=1)
        similarity, places = all_similar.topk(min(number, all_similar.shape[1]), dim=1)
        labels = all_labels.gather(1, places)
    votes = torch.zeros(len(rows), num_classes, dtype=torch.float64, device=device)
    votes.scatter_add_(1, labels, (similarity / _TEMPERATURE).exp())
    return np.asarray(votes.argmax(1).cpu().numpy() == validation.labels[rows])


def _judge(trainer: ImageClassificationTrainer) -> NDArray[np.bool_]:
    """Which validation images the model has right, in the order of their ``sample_index``."""
    loader = build_eval_dataloader(
        trainer.eval_dataset,
        trainer.args.eval_batch_size,
        PartialState(),
        num_workers=trainer.args.dataloader_num_workers,
    )
    accumulator: Any = evaluate_batches(
        trainer.model,
        loader,
        trainer.new_accumulator(),
        PartialState(),
        device_transform=trainer.eval_device_transform,
        autocast=trainer.compute_loss_context_manager,
    )
    examples = accumulator.collect_examples()
    return np.asarray(examples.prediction == examples.label)


def _tell(name: str, right: NDArray[np.bool_]) -> None:
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(_LEVEL, method="wilson")
    logger.info(
        "  %-22s accuracy %.4f (%.4f to %.4f), n = %d", name, right.mean(), interval.low, interval.high, len(right)
    )


def _keep_probe(trainer: ImageClassificationTrainer, result: TrainOutput) -> TrainOutput:
    """The model without its adapter, which adds nothing, and without the state of a training that is not kept."""
    model: Any = trainer.model
    if hasattr(model, "merge_and_unload"):
        trainer.model = trainer.model_wrapped = model.merge_and_unload()
    trainer.state.best_global_step = trainer.state.best_metric = trainer.state.best_model_checkpoint = None
    return result
