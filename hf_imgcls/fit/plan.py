"""What a Trainer is given beside ``TrainingArguments``, in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_imgcls.fit.evaluation import Accumulator, BatchTransform

if TYPE_CHECKING:
    from hf_imgcls.fit.distill import Distiller
    from hf_imgcls.fit.hooks import OwnLoss
    from hf_imgcls.fit.loss import LossFunction
    from hf_imgcls.fit.sampling import EpochSampler
    from hf_imgcls.fit.schedule import ScheduleBuilder
    from hf_imgcls.records import RunIdentity


@dataclass
class TrainPlan:
    """The parts of a training run.

    Attributes:
        model: A classification model, or the ``PeftModel`` around one.
        train_device_transform: Finishes a training batch on the device (normalises, augments).
        eval_device_transform: The same for evaluation; exactly what the saved processor does.
        new_accumulator: Makes an empty accumulator; its ``compute()`` gives the validation metrics.
        train: The training split with its transform attached.
        validation: The validation split with its transform attached.
        processor: Saved with every checkpoint.
        set_epoch: Told the epoch before its first batch.
        loss: The loss of each sample; ``None`` for the one of the model's labels.
        own_loss: A user's loss, in place of ``loss``.
        sampler: Which examples an epoch shows; ``None`` for all of them in random order.
        distiller: A teacher that the model learns from in addition to the labels.
        build_schedule: Makes a schedule for an optimizer and a number of steps; ``None`` for transformers' own.
        callbacks: Called by ``Trainer``.
        train_options: Keyword arguments of the model's forward beside the batch, in training steps.
        layer_lr_decay: See `hf_imgcls.fit.layers.decay_learning_rates`.
        ema_decay: Average the weights, see `hf_imgcls.fit.averaging`; ``None`` does not.
        channels_last: Whether images and convolutions have the channels last in memory.
        identity: What run the checkpoints belong to; ``None`` for what model and arguments say.
    """

    model: nn.Module
    train_device_transform: BatchTransform
    eval_device_transform: BatchTransform
    new_accumulator: Callable[[], Accumulator]
    train: Any = None
    validation: Any = None
    processor: Any = None
    set_epoch: Callable[[int], None] | None = None
    loss: LossFunction | None = None
    own_loss: OwnLoss | None = None
    sampler: EpochSampler | None = None
    distiller: Distiller | None = None
    build_schedule: ScheduleBuilder | None = None
    callbacks: Sequence[Any] = ()
    train_options: dict[str, Any] = field(default_factory=dict)
    layer_lr_decay: float = 1.0
    ema_decay: float | None = None
    channels_last: bool = False
    identity: RunIdentity | None = None
