"""Latency of each export against eager PyTorch: a ViT-Tiny/16 at 224 px, one image at a time.

    python benchmarks/export_latency.py [--formats onnx openvino ...] [--output benchmarks/export_latency.txt]

The weights are random: what a forward pass costs does not depend on them, accuracy does, and is measured by
recipes/export.py on a trained model. INT8 ranges come from random images. All models are timed in turn, round after
round, so that whatever else the machine does meets all of them; the ratio is the median of the rounds' ratios. ONNX
Runtime and OpenVINO get as many threads as PyTorch; on a busy machine set OMP_NUM_THREADS=1, because PyTorch's threads
wait for each other. OpenVINO's own default precision (bfloat16 on processors with AMX or AVX-512 BF16) has a row of its
own, since it is not what the float32 export is judged by.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_imgcls.arguments.fields import PublishArguments
from hf_imgcls.classifier.exported import load_exported
from hf_imgcls.classifier.preprocess import Normalizer
from hf_imgcls.classifier.runtimes import OpenVino
from hf_imgcls.measure.latency import measure_size_mb, name_device, time_calls
from hf_imgcls.publish.export.exporter import ExportSource, find_exporter

VIT_TINY = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
IMAGE_SIZE = 224
FORMATS = ("onnx", "onnx_int8", "onnx_int8_dynamic", "openvino", "openvino_int8")


class DefaultPrecision(OpenVino):
    """OpenVINO as it computes when nobody says how."""

    asked: ClassVar[dict[str, Any]] = {}

    def __init__(self, path: Path, num_threads: int) -> None:
        super().__init__(path, num_threads)
        precision = self._model.get_property("INFERENCE_PRECISION_HINT")
        self.hints = {"INFERENCE_PRECISION_HINT": precision.get_type_name()}


def build_source(folder: Path, config: dict, image_size: int) -> ExportSource:
    """The model to export, with random weights and random images to calibrate on."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**config, image_size=image_size, patch_size=16, num_labels=1000))
    processor = ViTImageProcessor(size={"height": image_size, "width": image_size})
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (2, 8, 3, image_size, image_size)).astype(np.float32)
    return ExportSource(
        model=model.eval(),
        processor=processor,
        image_size=(image_size, image_size),
        normalizer=Normalizer.from_processor(processor),
        options=PublishArguments(calibration_samples=16),
        work=folder,
        read_calibration=lambda: iter(images),
    )


def compare(
    source: ExportSource, formats: list[str], rounds: int, runs: int
) -> list[tuple[str, str, float, float, float, float]]:
    """Name, precision, MB, median ms, 95th percentile ms, and how many times as fast as PyTorch."""
    models: dict[str, torch.nn.Module] = {"PyTorch, eager": source.model}
    about: dict[str, tuple[str, float]] = {
        "PyTorch, eager": ("float32", sum(p.numel() for p in source.model.parameters()) * 4 / 1e6)
    }
    for name in formats:
        folder = source.work / f"result_{name}"
        folder.mkdir()
        written = find_exporter(name).write(source, folder)
        source.model.config.save_pretrained(folder)
        models[name] = load_exported(folder, source.processor)
        about[name] = (written.precision, measure_size_mb(folder) or 0.0)
        if name == "openvino":
            other = load_exported(folder, source.processor)
            other.runtime = DefaultPrecision(folder / written.file, torch.get_num_threads())
            row = "openvino, its default precision"
            models[row], about[row] = other, (str(other.runtime.hints["INFERENCE_PRECISION_HINT"]), about[name][1])
    pixels = torch.randn(1, 3, *source.image_size, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[np.ndarray]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, model in models.items():
                times[name].append(time_calls(lambda model=model: model(pixel_values=pixels), runs=runs, warmup=2))
    eager = np.array([np.median(part) for part in times["PyTorch, eager"]])
    rows = []
    for name, parts in times.items():
        ratio = float(np.median(eager / np.array([np.median(part) for part in parts])))
        every = np.concatenate(parts)
        rows.append((name, *about[name], float(np.median(every)), float(np.quantile(every, 0.95)), ratio))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10, help="timed calls of each model in a round")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--output", help="also write the table to this file")
    arguments = parser.parse_args()
    config, size, rounds, runs = VIT_TINY, IMAGE_SIZE, arguments.rounds, arguments.runs
    if arguments.smoke:
        config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        size, rounds, runs = 32, 2, 2
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(build_source(Path(folder), config, size), arguments.formats, rounds, runs)
    threads = torch.get_num_threads()
    lines = [
        f"{name_device(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads; torch "
        f"{torch.__version__}, transformers {transformers.__version__}; {rounds} rounds of {runs} images of {size} px; "
        f"load {os.getloadavg()[0]:.1f}",
        f"{'':32s} {'MB':>6s} {'p50 ms':>8s} {'p95 ms':>8s} {'x':>6s}  precision",
        *(f"{name:32s} {mb:6.1f} {p50:8.2f} {p95:8.2f} {x:6.2f}  {text}" for name, text, mb, p50, p95, x in rows),
    ]
    print("\n".join(lines))
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
