"""Training speed on a GPU: ImageClassificationTrainer against timm's training step, in one run.

    python benchmarks/gpu_training.py [--batch_size 128] [--workers 12] [--output benchmarks/gpu_training.txt]
    python benchmarks/gpu_training.py --smoke     # two steps of tiny models, on any machine: does it run at all?

ViT-B/16 and ConvNeXt-T from scratch at 224 px with 1,000 classes, bf16 autocast, AdamW, gradients clipped to 1, with
and without torch.compile. Batches are "ready" (uint8 in host memory, moved and normalised like any other) or come from
JPEG files of 500 x 375 pixels through each side's own loader, with its usual random crop and flip. The two sides take
turns; a number is the median over the repetitions, warm-up and compilation not counted.

"of matmul" is the rate of floating-point operations (three times the forward pass's) as a share of what a large bf16
matrix product reaches on the same device in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import timm
import torch
import transformers
from input_pipeline import TimmDataset, build_dataset, make_files
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.utils import dispatch_clip_grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trainer_overhead import Batch, Positions, make_ready_batches, synchronize
from transformers import AutoConfig, AutoModelForImageClassification, TrainerCallback

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.classifier.preprocess import Normalizer
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.plan import TrainPlan
from hf_imgcls.fit.trainer import ImageClassificationTrainer
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator

LABELS = [str(index) for index in range(1000)]


@dataclass
class Case:
    """One architecture on both sides.

    Attributes:
        model_type: Of transformers.
        model_config: Of transformers; its defaults are the published base sizes.
        timm_name: The same architecture in timm.
        image_size: In pixels.
    """

    model_type: str
    model_config: dict[str, Any]
    timm_name: str
    image_size: int


CASES = {
    "ViT-B/16": Case("vit", {}, "vit_base_patch16_224", 224),
    "ConvNeXt-T": Case("convnext", {}, "convnext_tiny", 224),
}
SMOKE_CASES = {
    "tiny ViT": Case(
        "vit",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "patch_size": 32,
        },
        "test_vit",
        160,
    ),
    "tiny ConvNeXt": Case(
        "convnext", {"depths": [1, 1], "hidden_sizes": [16, 32], "num_stages": 2}, "test_convnext", 160
    ),
}


@dataclass
class Setting:
    """What is common to all measurements of a run."""

    device: torch.device
    batch_size: int
    num_steps: int
    num_warm_up_steps: int
    num_workers: int
    files: list[bytes]

    @property
    def total_steps(self) -> int:
        return self.num_warm_up_steps + self.num_steps

    def autocast(self) -> Any:
        """bf16 where there is a GPU."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()


class StopWatch(TrainerCallback):
    """Images per second between the end of the warm-up and the last step."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.step, self.images_per_second = setting, 0, 0.0
        self._start = 0.0

    def count_step(self) -> None:
        """One step is over."""
        self.step += 1
        if self.step == self.setting.num_warm_up_steps:
            synchronize()
            self._start = time.perf_counter()
        elif self.step == self.setting.total_steps:
            synchronize()
            images = self.setting.num_steps * self.setting.batch_size
            self.images_per_second = images / (time.perf_counter() - self._start)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer's step."""
        self.count_step()


def time_ours(case: Case, compiled: bool, fed: bool, setting: Setting) -> float:
    """Images per second of our Trainer."""
    data = DataArguments(image_size=case.image_size, random_crop_scale=[0.08, 1.0], cache_decoded_images="false")
    fit = FitArguments(model_type=case.model_type, model_config=case.model_config)
    model, processor = build_model(fit, data, LABELS)
    watch = StopWatch(setting)
    options: dict[str, Any] = {}
    if fed:
        rows = build_dataset(setting.files, decode=False)
        rows = rows.select(np.arange(setting.total_steps * setting.batch_size) % len(rows))
        dataset = SimpleNamespace(splits={"train": rows}, is_multi_label=False, record=None, labels=LABELS)
        plan = attach_transforms(dataset, processor, data, seed=0)
        dataset, transform = plan.train, plan.train_device_transform
    else:
        batches, counter = make_ready_batches(case.image_size, setting.batch_size), itertools.count()
        normalizer = Normalizer.from_processor(processor)
        dataset = Positions(setting.total_steps * setting.batch_size)

        def transform(batch: Batch) -> Batch:
            return {**batch, "pixel_values": normalizer(batch["pixel_values"])}

        options["data_collator"] = lambda rows: dict(batches[next(counter) % len(batches)])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        training = {
            "output_dir": folder,
            "max_steps": setting.total_steps,
            "per_device_train_batch_size": setting.batch_size,
            "dataloader_num_workers": setting.num_workers if fed else 0,
            "torch_compile": compiled,
            "bf16": setting.device.type == "cuda",
            "use_cpu": setting.device.type == "cpu",
            "weight_decay": 0.05,
            "learning_rate": 1e-3,
            "logging_steps": 50,
            "logging_nan_inf_filter": False,  # as in our recipes: it would wait for the GPU at each step
            "save_strategy": "no",
            "report_to": "none",
            "remove_unused_columns": False,
            "label_names": ["labels"],
        }
        plan = TrainPlan(
            model=model,
            train=dataset,
            processor=processor,
            train_device_transform=transform,
            eval_device_transform=transform,
            new_accumulator=lambda: ClassificationAccumulator(len(LABELS)),
            callbacks=[watch],
        )
        trainer = ImageClassificationTrainer(plan, build_training_arguments(training), **options)
        trainer.train()
    return watch.images_per_second


def time_timm(case: Case, compiled: bool, fed: bool, setting: Setting) -> float:
    """Images per second of timm's training step, as its train.py takes it with ``--amp --amp-dtype bfloat16``."""
    model = timm.create_model(case.timm_name, num_classes=len(LABELS)).to(setting.device).train()
    parameters = list(model.parameters())
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    task = torch.compile(model) if compiled else model
    loss_function = torch.nn.CrossEntropyLoss().to(setting.device)
    watch = StopWatch(setting)
    batches = feed_timm(case, setting) if fed else ready_for_timm(case, setting)
    for pixels, target in itertools.islice(batches, setting.total_steps):
        with setting.autocast():
            loss = loss_function(task(pixels), target)
        loss.backward()
        dispatch_clip_grad(parameters, 1.0, mode="norm")
        optimizer.step()
        optimizer.zero_grad()
        watch.count_step()
    return watch.images_per_second


def feed_timm(case: Case, setting: Setting) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The loader of timm with its prefetcher, over the same files."""
    count = setting.total_steps * setting.batch_size
    files = [setting.files[index % len(setting.files)] for index in range(count)]
    return iter(
        create_loader(
            TimmDataset(files),
            (3, case.image_size, case.image_size),
            setting.batch_size,
            is_training=True,
            color_jitter=None,
            num_workers=setting.num_workers,
            persistent_workers=False,
            pin_memory=setting.device.type == "cuda",
            device=setting.device,
        )
    )


def ready_for_timm(case: Case, setting: Setting) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The ready batches, normalised on the device as timm's prefetcher does."""
    mean = torch.full((1, 3, 1, 1), 127.5, device=setting.device)
    for batch in itertools.cycle(make_ready_batches(case.image_size, setting.batch_size)):
        pixels = batch["pixel_values"].to(setting.device, non_blocking=True)
        yield pixels.float().sub_(mean).div_(mean), batch["labels"].to(setting.device, non_blocking=True)


def count_flops(case: Case) -> int:
    """Floating-point operations to train on one image: three times the forward pass's."""
    config = AutoConfig.for_model(
        case.model_type, **case.model_config, image_size=case.image_size, num_labels=len(LABELS)
    )
    counter = FlopCounterMode(display=False)
    # Nothing is computed on the meta device; the fused attention kernels would not be counted.
    with torch.device("meta"), counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model = AutoModelForImageClassification.from_config(config).eval()
        model(pixel_values=torch.zeros(1, 3, case.image_size, case.image_size))
    return 3 * counter.get_total_flops()


def measure_matmul(setting: Setting, size: int) -> float:
    """Floating-point operations per second of a (size x size) bf16 matrix product: the best of several."""
    left, right = (torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(10):
        synchronize()
        start = time.perf_counter()
        for _ in range(10):
            left @ right
        synchronize()
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * size**3 / min(seconds)


def measure_case(
    name: str, case: Case, setting: Setting, repetitions: int, compile_too: bool, peak: float
) -> list[str]:
    """A line of the table per way of running a model."""
    lines, flops = [], count_flops(case)
    for compiled, fed in itertools.product([False, True] if compile_too else [False], [False, True]):
        rates: dict[Callable[..., float], list[float]] = {time_ours: [], time_timm: []}
        for _, (contender, found) in itertools.product(range(repetitions), rates.items()):
            torch.compiler.reset()
            found.append(contender(case, compiled, fed, setting))
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()
        ours, theirs = (statistics.median(found) for found in rates.values())
        ratio = statistics.median(a / b for a, b in zip(*rates.values(), strict=True))
        lines.append(
            f"{name:<14} {'compiled' if compiled else 'eager':<9} {'files' if fed else 'ready':<6} {ours:>11,.0f} "
            f"{theirs:>9,.0f} {ratio:>6.2f} {ours * flops / peak:>10.1%}"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60, help="Steps that are timed.")
    parser.add_argument("--workers", type=int, default=min(12, os.cpu_count() or 1), help="Loader processes.")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="Tiny models, two steps; the numbers mean nothing.")
    parser.add_argument("--output", help="Also write the table to this file.")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.smoke:
        print("not measured: no CUDA device")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.smoke:
        setting = Setting(device, 4, 2, 1, 0, make_files(50, 38, 8, "JPEG"))
    else:
        files = make_files(500, 375, 1024, "JPEG")
        setting = Setting(device, options.batch_size, options.steps, 15, options.workers, files)
    peak = measure_matmul(setting, 256 if options.smoke else 8192)
    chip = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    lines = [
        f"{chip}; torch {torch.__version__}, transformers {transformers.__version__}, timm {timm.__version__}",
        f"batch size {setting.batch_size}, {setting.num_workers} workers, bf16 matmul {peak / 1e12:,.3g} TFLOP/s",
        f"{'model':<14} {'':<9} {'input':<6} {'hf_imgcls/s':>11} {'timm/s':>9} {'ratio':>6} {'of matmul':>10}",
    ]
    print("\n".join(lines), flush=True)
    for name, case in (SMOKE_CASES if options.smoke else CASES).items():
        repetitions = 1 if options.smoke else options.repetitions
        lines += measure_case(name, case, setting, repetitions, not options.smoke, peak)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
