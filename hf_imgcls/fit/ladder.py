"""``auto``: a linear probe, then fine-tuning that starts from its head; validation log loss says which one is kept.

Log loss, and not accuracy: it changes with every image and not only with those that change sides, so that a hundred
images tell more models apart. Both are measured on the same images, so the difference is taken image by image.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState
from scipy.stats import binomtest, ttest_1samp

from hf_imgcls.errors import NumericsError
from hf_imgcls.fit.adapt import choose_finetuning
from hf_imgcls.fit.evaluation import build_eval_dataloader, evaluate_batches
from hf_imgcls.fit.probe import train_probe

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers.trainer_utils import TrainOutput

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.fit.trainer import ImageClassificationTrainer

logger = logging.getLogger(__name__)

_LEVEL = 0.95
_NEGLIGIBLE_ERROR = 0.01  # below this share of wrong answers nothing is fine-tuned


@dataclass(frozen=True)
class Verdict:
    """Two models compared on the same images.

    Attributes:
        difference: Mean log loss of the fine-tuned model minus the probe's, in nats.
        interval: Its 95 % interval; NaN where the losses differ by the same number everywhere.
        keeps_tuned: Whether the fine-tuned model is kept.
    """

    difference: float
    interval: tuple[float, float]
    keeps_tuned: bool


def train_auto(
    trainer: ImageClassificationTrainer,
    dataset: ImageDataset,
    batches: BatchPlan,
    args: Arguments,
    resume_from_checkpoint: str | None,
) -> TrainOutput:
    """Probe, then fine-tune from the probe's head, and keep the better of the two.

    Args:
        trainer: Its model ends as the one that is kept; where that is the probe, without an adapter.
        dataset: As for `train_probe`.
        batches: As for `train_probe`.
        args: ``fit.auto_finetune`` and what `train_probe` reads.
        resume_from_checkpoint: Of the fine-tuning. The probe before it is made again, which takes seconds.

    Returns:
        Of the training that is kept. Its metrics have both mean log losses on validation, as far as they were measured:
        ``train_probe_validation_loss`` and ``train_finetuned_validation_loss``.

    Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution"
        (arXiv:2202.10054): a linear probe, then full fine-tuning from it.
    """
    result = train_probe(trainer, dataset, batches, args)
    probe, num_errors = _measure(trainer)
    _tell("linear probe", probe, num_errors)
    measured = {"train_probe_validation_loss": float(probe.mean())}
    if num_errors is not None and is_negligible(num_errors, len(probe)):
        logger.info("auto: the probe errs on fewer than 1 %% of images (95 %% confidence): fine-tuning is not tried")
        return _keep_probe(trainer, result, measured)
    kept = {name: tensor.detach().cpu().clone() for name, tensor in trainer.model.state_dict().items()}
    try:
        tuned_result = trainer.train(resume_from_checkpoint=resume_from_checkpoint)
        tuned, num_errors = _measure(trainer)
    except NumericsError as error:
        logger.warning("auto: fine-tuning failed, and the probe is kept: %s", error)
        trainer.model.load_state_dict(kept)
        return _keep_probe(trainer, result, measured)
    _tell("fine-tuned in full" if choose_finetuning(args.fit) == "full" else "fine-tuned by LoRA", tuned, num_errors)
    measured["train_finetuned_validation_loss"] = float(tuned.mean())
    verdict = judge(probe, tuned)
    logger.info(
        "auto: fine-tuning changed the log loss by %+.4f (%+.4f to %+.4f, image by image): %s is kept",
        verdict.difference, *verdict.interval, "its model" if verdict.keeps_tuned else "the probe",
    )  # fmt: skip
    if verdict.keeps_tuned:
        tuned_result.metrics.update(measured)
        return tuned_result
    trainer.model.load_state_dict(kept)
    return _keep_probe(trainer, result, measured)


def is_negligible(num_errors: int, num_examples: int) -> bool:
    """Whether fewer than 1 % of answers are wrong, with 95 % confidence: from 299 images without an error on.

    Source: Clopper and Pearson (1934), "The use of confidence or fiducial limits", Biometrika 26, 404-413.
    """
    interval = binomtest(num_errors, num_examples, alternative="less").proportion_ci(_LEVEL, method="exact")
    return bool(interval.high < _NEGLIGIBLE_ERROR)


def judge(probe: NDArray[np.float64], tuned: NDArray[np.float64]) -> Verdict:
    """Compare a fine-tuned model with the probe that it started from.

    The one with the lower mean is kept, whether or not chance could explain the difference: the larger the difference
    really is, the less often the worse model is kept.

    Args:
        probe: Log loss of each image, ``(N,)``.
        tuned: The same of the fine-tuned model.
    """
    differences = tuned - probe
    interval = ttest_1samp(differences, 0).confidence_interval(_LEVEL) if np.ptp(differences) else (np.nan, np.nan)
    mean = float(differences.mean())
    return Verdict(mean, (float(interval[0]), float(interval[1])), mean <= 0)


def _measure(trainer: ImageClassificationTrainer) -> tuple[NDArray[np.float64], int | None]:
    """Log loss of each validation image ``(N,)``, in the order of their ``sample_index``, and how many it has wrong.

    The latter is ``None`` where an image may have several labels.
    """
    loader = build_eval_dataloader(
        trainer.eval_dataset,
        trainer.args.eval_batch_size,
        PartialState(),
        num_workers=trainer.args.dataloader_num_workers,
    )
    accumulator: Any = evaluate_batches(
        trainer.model,
        loader,
        trainer.plan.new_accumulator(),
        PartialState(),
        device_transform=trainer.plan.eval_device_transform,
        autocast=trainer.compute_loss_context_manager,
    )
    examples = accumulator.collect_examples()
    has_one_label = hasattr(examples, "prediction")
    return examples.log_loss, int((examples.prediction != examples.label).sum()) if has_one_label else None


def _tell(name: str, losses: NDArray[np.float64], num_errors: int | None) -> None:
    right = "" if num_errors is None else f", accuracy {1 - num_errors / len(losses):.4f}"
    logger.info("auto: %s: log loss %.4f%s on %d validation images", name, losses.mean(), right, len(losses))


def _keep_probe(trainer: ImageClassificationTrainer, result: TrainOutput, measured: dict[str, float]) -> TrainOutput:
    """The model without its adapter, which adds nothing, and without the state of a training that is not kept."""
    model: Any = trainer.model
    if hasattr(model, "merge_and_unload"):
        trainer.model = trainer.model_wrapped = model.merge_and_unload()
    trainer.state.best_global_step = trainer.state.best_metric = trainer.state.best_model_checkpoint = None
    result.metrics.update(measured)
    return result
