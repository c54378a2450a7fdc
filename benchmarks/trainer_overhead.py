"""What ImageClassificationTrainer adds to a training step, over a bare PyTorch loop.

    python benchmarks/trainer_overhead.py [--steps 100] [--output benchmarks/trainer_overhead.txt]

Both train the same model on the same ready uint8 batches: normalise, forward, cross-entropy, backward, clip, AdamW
with the Trainer's own parameter groups, linear schedule; that both end with the same weights is checked. The bare
loop's step runs inside the Trainer's last callback, so the two take turns step by step; the Trainer's step is
everything between two turns (progress bar, callbacks, logging every 50 steps, Accelerate). Set-up and the first steps
are not counted. On a CPU one thread is used and its own time is measured, which other processes hardly change.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import tempfile
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
import yaml
from torch.utils.data import Dataset
from transformers import TrainerCallback, get_scheduler

from hf_imgcls.arguments.configs import CONFIGS
from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.classifier.preprocess import Normalizer
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.plan import TrainPlan
from hf_imgcls.fit.trainer import ImageClassificationTrainer
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator

NUM_WARM_UP_STEPS = 10
NUM_READY_BATCHES = 8
QUICK_START = yaml.safe_load((CONFIGS / "digits_vit_tiny.yaml").read_text())
# Name -> model config, image size in pixels, batch size.
MODELS: dict[str, tuple[dict[str, Any], int, int]] = {
    "ViT of the quick start": (
        QUICK_START["model_config"], QUICK_START["image_size"], QUICK_START["per_device_train_batch_size"],
    ),
    "tiny ViT (192 wide, 4 layers, 32 px)": (
        {
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "patch_size": 4,
        },
        32,
        32,
    ),
}  # fmt: skip
LABELS = [str(index) for index in range(10)]
Batch = dict[str, torch.Tensor]


class Positions(Dataset[int]):
    """Rows without content: the collator answers with a ready batch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> int:
        return position


class BareStep:
    """One step of a plain PyTorch loop."""

    def __init__(self, model: torch.nn.Module, trainer: ImageClassificationTrainer, batches: list[Batch]) -> None:
        args = trainer.args
        self.model, self.batches, self.transform = model.to(args.device), batches, trainer.plan.train_device_transform
        self.device, self.max_norm, self.total = args.device, args.max_grad_norm, torch.zeros((), device=args.device)
        decayed = set(trainer.get_decay_parameter_names(model))
        groups = [
            {"params": [p for n, p in model.named_parameters() if (n in decayed) is keep], "weight_decay": decay}
            for keep, decay in ((True, args.weight_decay), (False, 0.0))
        ]
        optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(args)
        self.optimizer = optimizer_class(groups, **options)
        self.schedule = get_scheduler("linear", self.optimizer, 0, args.max_steps)
        self.step = 0

    def __call__(self) -> None:
        batch = {name: value.to(self.device) for name, value in self.batches[self.step % len(self.batches)].items()}
        with torch.no_grad():
            batch = self.transform(batch)
        logits = self.model(pixel_values=batch["pixel_values"]).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), batch["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.total += loss.detach()
        self.step += 1


class TakeTurns(TrainerCallback):
    """Times the Trainer from the end of its turn to the next, and lets the bare loop take its own in between."""

    def __init__(self) -> None:
        self.bare: BareStep | None = None
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self._turn_began = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step of the Trainer is over."""
        assert self.bare is not None
        synchronize()
        trainer_ended = read_clock()
        self.bare()
        synchronize()
        bare_ended = read_clock()
        if state.global_step > NUM_WARM_UP_STEPS:
            self.trainer_seconds.append(trainer_ended - self._turn_began)
            self.bare_seconds.append(bare_ended - trainer_ended)
        self._turn_began = bare_ended


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def read_clock() -> float:
    """Seconds: of the wall with a GPU, of this thread without."""
    return time.perf_counter() if torch.cuda.is_available() else time.thread_time()


def make_ready_batches(image_size: int, batch_size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "pixel_values": torch.randint(
                0, 256, (batch_size, 3, image_size, image_size), dtype=torch.uint8, generator=generator
            ),
            "labels": torch.randint(0, len(LABELS), (batch_size,), generator=generator),
            "sample_index": torch.arange(batch_size),
        }
        for _ in range(NUM_READY_BATCHES)
    ]


def compare(config: dict[str, Any], image_size: int, batch_size: int, num_steps: int) -> tuple[float, float, float]:
    """Median seconds per step of the Trainer and of the bare loop, and the median ratio of neighbouring steps."""
    torch.manual_seed(0)
    fit = FitArguments(model_type="vit", model_config=config)
    models = [build_model(fit, DataArguments(image_size=image_size), LABELS) for _ in range(2)]
    (model, processor), (bare_model, _) = models
    bare_model.load_state_dict(model.state_dict())
    batches = make_ready_batches(image_size, batch_size)
    normalizer = Normalizer.from_processor(processor)

    def normalize(batch: Batch) -> Batch:
        return {**batch, "pixel_values": normalizer(batch["pixel_values"])}

    turns, steps = TakeTurns(), iter(range(10**9))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        training = {
            "output_dir": folder,
            "max_steps": num_steps + NUM_WARM_UP_STEPS,
            "per_device_train_batch_size": batch_size,
            "logging_steps": 50,
            "save_strategy": "no",
            "report_to": "none",
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "learning_rate": 1e-3,
        }
        plan = TrainPlan(
            model=model,
            train=Positions(batch_size * (num_steps + NUM_WARM_UP_STEPS)),
            processor=processor,
            train_device_transform=normalize,
            eval_device_transform=normalize,
            new_accumulator=lambda: ClassificationAccumulator(len(LABELS)),
            callbacks=[turns],
        )
        ready = {"data_collator": lambda rows: dict(batches[next(steps) % len(batches)])}
        trainer = ImageClassificationTrainer(plan, build_training_arguments(training), **ready)
        # Last in line, so that the progress bar is part of the Trainer's step.
        trainer.remove_callback(turns)
        trainer.add_callback(turns)
        turns.bare = BareStep(bare_model, trainer, batches)
        trainer.train()
    if len(turns.trainer_seconds) != num_steps:
        raise RuntimeError(f"{len(turns.trainer_seconds)} of {num_steps} steps were timed")
    difference = max(
        float((ours - theirs).detach().abs().max())
        for ours, theirs in zip(model.parameters(), turns.bare.model.parameters(), strict=True)
    )
    if difference > 1e-4:
        raise RuntimeError(f"the two loops trained to different weights (by {difference:.1e}): the comparison is void")
    ratios = [ours / theirs for ours, theirs in zip(turns.trainer_seconds, turns.bare_seconds, strict=True)]
    return statistics.median(turns.trainer_seconds), statistics.median(turns.bare_seconds), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="Steps that are timed, per model and repetition.")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", help="Also write the table to this file.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, 1 thread"
    lines = [f"{device}; torch {torch.__version__}, transformers {transformers.__version__}"]
    lines.append(f"{'model':<50} {'Trainer ms':>10} {'bare ms':>8} {'ratio':>6}")
    for name, (config, image_size, batch_size) in MODELS.items():
        for _ in range(options.repetitions):
            ours, theirs, ratio = compare(config, image_size, batch_size, options.steps)
            lines.append(f"{name:<50} {ours * 1e3:>10.2f} {theirs * 1e3:>8.2f} {ratio:>6.3f}")
            print("\n".join(lines[-1:] if len(lines) > 3 else lines), flush=True)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
