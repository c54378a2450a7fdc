"""What a training step on a CPU gains from kept memory, depthwise gradients, bfloat16 and channels_last.

    python benchmarks/cpu_step.py [--steps 10] [--rounds 2] [--output benchmarks/cpu_step.txt]

Forward, cross-entropy, backward and fused AdamW on one ready batch, without our Trainer: as any script does it; with
`hf_imgcls.process.keep_memory`; with `hf_imgcls.fit.depthwise` as well; then in bfloat16, where the CPU multiplies in
it; and with the channels last. The first three are what a run does by itself; the others are --bf16 and
--channels_last. Each measurement is a process of its own, the variants take turns, and the median step of all rounds
counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import ConvNextConfig, ConvNextForImageClassification

from hf_imgcls.arguments.configs import CONFIGS
from hf_imgcls.fit.depthwise import speed_up_depthwise
from hf_imgcls.process import keep_memory
from hf_imgcls.provenance import has_bfloat16

VARIANTS = ("as a script does it", "memory kept", "and depthwise gradients", "and bfloat16", "and channels last")
RECIPE = yaml.safe_load((CONFIGS / "fashion_mnist_convnext.yaml").read_text())
BATCH_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="also write the table there")
    args = parser.parse_args()

    threads = torch.get_num_threads()
    lines = [f"CPU, {threads} threads, torch {torch.__version__}, {args.rounds} rounds of {args.steps} steps"]
    variants = VARIANTS if has_bfloat16() else VARIANTS[:3]
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(args.rounds):
        for variant in variants:
            seconds[variant] += time_in_process(variant, args.steps)
    plain = statistics.median(seconds[VARIANTS[0]])
    lines.append(f"\nConvNeXt of fashion_mnist_convnext, 28 px, batches of {BATCH_SIZE}")
    for variant in variants:
        median = statistics.median(seconds[variant])
        lines.append(f"  {variant:<23} {BATCH_SIZE / median:7.1f} images/s   {plain / median:.2f} x")
    report = "\n".join(lines)
    print(report)
    if args.output:
        args.output.write_text(report + "\n", encoding="utf-8")


def time_in_process(variant: str, steps: int) -> list[float]:
    """Seconds of each measured step."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_time_steps, args=(variant, steps, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _time_steps(variant: str, steps: int, sender: Any) -> None:
    gains = VARIANTS.index(variant)
    if gains >= 1:
        keep_memory()
    torch.manual_seed(0)
    size = RECIPE["image_size"]
    model = ConvNextForImageClassification(ConvNextConfig(**RECIPE["model_config"], num_labels=10)).train()
    if gains >= 2:
        speed_up_depthwise(model)
    memory_format = torch.channels_last if gains >= 4 else torch.contiguous_format
    model = model.to(memory_format=memory_format)
    pixels = torch.randn(BATCH_SIZE, 3, size, size).contiguous(memory_format=memory_format)
    labels = torch.randint(0, 10, (BATCH_SIZE,))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    times = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=gains >= 3):
            loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    sender.send(times[3:])


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the recipes do, for the processes started from here
    main()
