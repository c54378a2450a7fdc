"""Train tiny models for ten steps and save their weights: run with one process, with accumulation, or by torchrun.

    python invariant_run.py OUT BATCH_SIZE ACCUMULATION [OUT BATCH_SIZE ACCUMULATION ...]

Not a test by itself; `test_invariants.py` compares what several launches leave.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import ClassLabel, Sequence
from safetensors.torch import save_file
from tiny_models import TINY_CONFIGS

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.data.dataset import ImageDataset
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.loss import SampleLoss
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.plan import TrainPlan
from hf_imgcls.fit.sampling import ClassBalancedSampler
from hf_imgcls.fit.trainer import ImageClassificationTrainer
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator, MultiLabelAccumulator
from hf_imgcls.records import MULTI_LABEL

# The last two are ViTs: for several labels per image; and with weighted classes, of which it sees as many of each, and
# the average of the weights.
FAMILIES = ("vit", "convnext", "resnet", "beit", "multi_label", "imbalance")


def give_several_labels(dataset: ImageDataset) -> ImageDataset:
    """The same digits, each labelled with itself, with "odd" if it is, and with nothing if it is 0."""
    names = [*dataset.labels, "odd"]
    splits = {}
    for role, split in dataset.splits.items():
        sets = [([digit, 10] if digit % 2 else [digit]) if digit else [] for digit in split["label"]]
        splits[role] = split.remove_columns("label").add_column(
            "label", sets, feature=Sequence(ClassLabel(names=names))
        )
    return ImageDataset(splits, names, replace(dataset.record, problem_type=MULTI_LABEL))


def main(out: Path, batch_size: int, accumulation: int) -> None:
    data = DataArguments(dataset_name="digits", image_size=32, max_train_samples=160, max_eval_samples=61)
    digits = load_image_dataset(data)
    metrics = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        multi_label = family == "multi_label"
        dataset = give_several_labels(digits) if multi_label else digits
        kind = "vit" if multi_label or family == "imbalance" else family
        fit = FitArguments(model_type=kind, model_config=TINY_CONFIGS[kind])
        model, processor = build_model(fit, data, dataset.labels, multi_label=multi_label)
        for module in model.modules():
            # Statistics of 8 images are not those of 16: a net with BatchNorm can only be equal with it frozen.
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)
        batches = attach_transforms(dataset, processor, data, seed=0)
        args = build_training_arguments(
            {
                "output_dir": str(out / "trainer"),
                "max_steps": 10,
                "per_device_train_batch_size": batch_size,
                "per_device_eval_batch_size": 8,
                "gradient_accumulation_steps": accumulation,
                "learning_rate": 1e-3,
                "optim": "sgd",  # Adam divides by its own gradient scale, which would hide a factor
                "label_smoothing_factor": 0.1,
                "use_cpu": True,
                "report_to": "none",
                "save_strategy": "no",
                "eval_strategy": "no",
                "logging_strategy": "no",
                "disable_tqdm": True,
                "label_names": ["labels"],
                "remove_unused_columns": False,
            }
        )
        options = {}
        if family == "imbalance":
            options = {
                "loss": SampleLoss(class_weights=torch.linspace(0.2, 3.0, 10)),
                "sampler": ClassBalancedSampler(batches.train.read_labels(), seed=0),
                "ema_decay": 0.5,
            }
        plan = TrainPlan(
            model=adapt_model(model, fit),
            train=batches.train,
            validation=batches.validation,
            train_device_transform=batches.train_device_transform,
            eval_device_transform=batches.eval_device_transform,
            new_accumulator=partial(
                MultiLabelAccumulator if multi_label else ClassificationAccumulator, len(dataset.labels)
            ),
            set_epoch=batches.set_epoch,
            **options,
        )
        trainer = ImageClassificationTrainer(plan, args)
        trainer.train()
        metrics[family] = {
            name: value for name, value in trainer.evaluate().items() if not name.endswith(("runtime", "per_second"))
        }
        if trainer.is_world_process_zero():
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / f"{family}.safetensors")
    if trainer.is_world_process_zero():
        metrics["world_size"] = args.world_size
        (out / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    for first in range(1, len(sys.argv), 3):
        out, batch_size, accumulation = sys.argv[first : first + 3]
        AcceleratorState._reset_state(reset_partial_state=first > 1)  # it remembers the accumulation
        GradientState._reset_state()
        main(Path(out), int(batch_size), int(accumulation))
    if torch.distributed.is_initialized():  # its threads would abort the process now and then, at its end
        torch.distributed.destroy_process_group()
