"""Self-supervised pretraining: a backbone that learns from images alone, by telling views of one image from others.

Losses and projection heads are lightly's (extra ``pretrain``); the rest is the Trainer that fine-tuning uses, so that a
run can be stopped, resumed and spread over processes as any other. What is saved is a classifier without a head, which
``--model_name_or_path`` takes.

Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR,
arXiv:2002.05709); Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO,
arXiv:2104.14294), here with two views of each image and without its small crops.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import binomtest
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from hf_imgcls.classifier.head import find_head_modules, find_linear_head
from hf_imgcls.compat.models import keep_fast_processor
from hf_imgcls.data.collate import WholeBatch
from hf_imgcls.extras import require
from hf_imgcls.fit.neighbours import ask_neighbours
from hf_imgcls.fit.plan import TrainPlan
from hf_imgcls.fit.probe import role_features
from hf_imgcls.fit.same_run import describe_run
from hf_imgcls.fit.trainer import ImageClassificationTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.batches import BatchedSplit
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan

_VIEWS = 2
_SIMCLR_DIM, _DINO_DIM = 128, 4096
_DINO_HIDDEN, _DINO_BOTTLENECK = 2048, 256


class Views(Dataset[dict[str, torch.Tensor]]):
    """Two views of each image of a batch: all first views, then all second ones.

    Args:
        split: With its training transform attached; a view is a repetition of the image with other random numbers.
    """

    def __init__(self, split: BatchedSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """The first view of an image."""
        return self.split[position]

    def __getitems__(self, positions: Sequence[int]) -> WholeBatch:
        """A batch of twice as many rows as positions."""
        return self.split.__getitems__([p + view * len(self) for view in range(_VIEWS) for p in positions])


class SelfSupervisedModel(nn.Module):
    """A classifier whose head is replaced by a projection, and what it is compared with.

    Args:
        classifier: Its linear head is taken off, in place; `release` gives it back.
        method: ``simclr`` or ``dino``.
        projection_dim: Of the projections; ``None`` for 128 (SimCLR) and 4,096 (DINO).
        temperature: Divides SimCLR's similarities, or DINO's student; ``None`` for 0.5 and 0.1.
        gathers: Whether SimCLR compares with the images of all processes.

    Attributes:
        config: The classifier's.
        loss: lightly's.

    Raises:
        ModelError: The classifier's head is not one linear layer.
        MissingExtraError: lightly is not installed.
    """

    def __init__(
        self,
        classifier: PreTrainedModel,
        method: str,
        projection_dim: int | None = None,
        temperature: float | None = None,
        gathers: bool = False,
    ) -> None:
        super().__init__()
        require("pretrain")
        from lightly.loss import DINOLoss, NTXentLoss
        from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead

        head = find_linear_head(classifier)
        self.config: Any = classifier.config
        self._head_path = next(path for path, module in classifier.named_modules() if module is head)
        classifier.set_submodule(self._head_path, nn.Identity())
        self.encoder = classifier
        width = head.in_features
        self.teacher: nn.ModuleList | None = None
        if method == "simclr":
            self.projection = SimCLRProjectionHead(width, width, projection_dim or _SIMCLR_DIM)
            self.loss: nn.Module = NTXentLoss(temperature or 0.5, gather_distributed=gathers)
        else:
            dim = projection_dim or _DINO_DIM
            widths = (width, min(_DINO_HIDDEN, 8 * width), _DINO_BOTTLENECK, dim)  # less for small networks
            self.projection = DINOProjectionHead(*widths)
            self.loss = DINOLoss(dim, student_temp=temperature or 0.1)
            # Built again and not copied: its last layer is weight-normalised, which deepcopy refuses.
            projection = DINOProjectionHead(*widths)
            projection.load_state_dict(self.projection.state_dict())
            self.teacher = nn.ModuleList([copy.deepcopy(self.encoder), projection]).requires_grad_(False)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        """Project views.

        Args:
            pixel_values: float ``(2 B, 3, H, W)``: first views, then second ones.
            labels: Not read.

        Returns:
            ``logits`` ``(2 B, D)``; with a teacher ``(2 B, 2 D)``, its projections behind the student's.
        """
        projected = self.projection(self.encoder(pixel_values=pixel_values).logits)
        if self.teacher is not None:
            encoder, projection = self.teacher
            with torch.no_grad():
                taught = projection(encoder(pixel_values=pixel_values).logits)
            projected = torch.cat([projected, taught], dim=1)
        return ImageClassifierOutput(logits=projected)

    def compare(self, projected: torch.Tensor) -> torch.Tensor:
        """The loss of a batch of projections, from `forward`: a scalar."""
        first, second = projected.float().chunk(_VIEWS)
        if self.teacher is None:
            return self.loss(first, second)
        views = [view.chunk(2, dim=1) for view in (first, second)]
        return self.loss([taught for _, taught in views], [own for own, _ in views])

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher's weights towards the student's: ``momentum`` of it stays."""
        if self.teacher is not None:
            for theirs, ours in zip(self.teacher, (self.encoder, self.projection), strict=True):
                for old, new in zip(theirs.parameters(), ours.parameters(), strict=True):
                    old.lerp_(new, 1 - momentum)
                for old, new in zip(theirs.buffers(), ours.buffers(), strict=True):
                    old.copy_(new)

    def release(self) -> PreTrainedModel:
        """The classifier with what was learnt (with DINO the teacher's weights, which are better) and a new head."""
        learnt: Any = self.encoder if self.teacher is None else self.teacher[0]
        fresh = type(learnt)(learnt.config)
        head = next(module for path, module in fresh.named_modules() if path == self._head_path)
        learnt.set_submodule(self._head_path, head.to(next(learnt.parameters()).device))
        return learnt.requires_grad_(True)


@dataclass(frozen=True)
class _ViewLoss:
    """What the Trainer asks for a loss: the mean of a batch, once for each of its rows."""

    model: SelfSupervisedModel
    multi_label: bool

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        return self.model.compare(logits).expand(len(logits))


class MomentumTeacher(TrainerCallback):
    """Lets the teacher follow the student; it follows ever less, by a cosine from ``momentum`` to 1.

    Args:
        model: Has the teacher.
        momentum: Of the first step, in [0, 1).
    """

    def __init__(self, model: SelfSupervisedModel, momentum: float) -> None:
        self.model, self.momentum = model, momentum

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The weights have moved."""
        share = min(state.global_step / max(state.max_steps, 1), 1.0)
        self.model.update_teacher(1 - (1 - self.momentum) * (math.cos(math.pi * share) + 1) / 2)


def build_pretrainer(
    model: PreTrainedModel,
    processor: Any,
    batches: BatchPlan,
    dataset: ImageDataset,
    args: Arguments,
    training_args: TrainingArguments,
) -> ImageClassificationTrainer:
    """Put the parts of a pretraining run together.

    Args:
        model: From ``hf_imgcls.fit.model.build_model``; its head is taken off.
        processor: Saved with every checkpoint.
        batches: The training split with its transform attached.
        dataset: As loaded.
        args: ``method``, ``projection_dim``, ``temperature``, ``teacher_momentum``.
        training_args: From ``hf_imgcls.fit.training_arguments.build_training_arguments``; nothing is evaluated.
    """
    fit = args.fit
    learner = SelfSupervisedModel(
        model, fit.method, fit.projection_dim, fit.temperature, gathers=training_args.world_size > 1
    )
    identity = describe_run(learner, training_args, dataset.record, args)

    def refuse() -> Any:
        raise AssertionError("a self-supervised model has no answers to measure")

    plan = TrainPlan(
        model=learner,
        train_device_transform=batches.train_device_transform,
        eval_device_transform=batches.eval_device_transform,
        new_accumulator=refuse,
        train=Views(batches.train),
        processor=processor,
        set_epoch=batches.set_epoch,
        loss=_ViewLoss(learner, dataset.is_multi_label),
        callbacks=[MomentumTeacher(learner, fit.teacher_momentum)],
        identity=identity,
    )
    return ImageClassificationTrainer(plan, training_args)


def judge_backbone(
    trainer: ImageClassificationTrainer, dataset: ImageDataset, batches: BatchPlan, args: Arguments
) -> tuple[float, int] | None:
    """How well the frozen backbone tells the classes of labelled data apart, without training anything.

    Args:
        trainer: Of a classifier.
        dataset: As loaded.
        batches: The same with transforms.
        args: The group ``pixels``, and ``cache_dir``.

    Returns:
        Share of validation images whose nearest training images have their class, and how many were asked about;
        ``None`` without labels or a validation split, or with several labels per image.
    """
    if dataset.is_multi_label or len(dataset.labels) < 2 or "validation" not in dataset.splits:
        return None
    train, validation = (role_features(trainer, dataset, batches, args, role) for role in ("train", "validation"))
    right = ask_neighbours(train, validation, len(dataset.labels), trainer.args.device)
    return float(right.mean()), len(right)


def describe_neighbours(before: tuple[float, int] | None, after: tuple[float, int] | None) -> str:
    """One line for the user: both shares with their intervals, or what to do where there are no labels."""
    if before is None or after is None:
        return "No labels to judge the backbone by: fine-tune it, and compare with training from scratch."
    texts = []
    for share, count in (before, after):
        interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
        texts.append(f"{share:.4f} ({interval.low:.4f} to {interval.high:.4f})")
    return (
        f"Nearest neighbours on frozen features, accuracy on {after[1]} validation images: {texts[0]} before, "
        f"{texts[1]} after"
    )


def save_backbone(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Write a classifier without its head, and its processor, as ``--model_name_or_path`` takes them.

    The head's tensors are left out: `transformers` says that they are new when the folder is loaded.
    """
    own = {id(tensor) for module in find_head_modules(model) for tensor in module.parameters()}
    kept = {name: value for name, value in model.state_dict(keep_vars=True).items() if id(value) not in own}
    model.save_pretrained(folder, state_dict={name: value.detach() for name, value in kept.items()})
    processor.save_pretrained(folder)
    keep_fast_processor(processor, folder)
