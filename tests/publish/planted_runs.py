"""Folders with the records of runs that never were, and names of classes that would like to do harm."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import yaml
from measure.planted_reports import make_record, make_table

from hf_imgcls.records import (
    DataRecord,
    Estimate,
    ExportRecord,
    ModelRecord,
    ParityRecord,
    ReportRecord,
    RunRecord,
    SplitRecord,
    write_json,
)

HOSTILE_NAMES = [
    "<script>alert(1)</script>",
    "a|b || c",
    "line\nbreak\r\n| 1 | 2 |",
    "---",
    "a: b",
    "x" * 10_000,
    "`code` ``",
    "\u202eevil \u2066name",
    "$$x_1$$ \\(y\\) {{ 7 * 7 }} {% raw %} {# hm #}",
    "[link](https://evil.example) ![img](x.png) <img src=x onerror=alert(1)>",
    "# *bold* _it_ ~~no~~ &lt; & 'q' \"r\"",
    "https://evil.example www.evil.example",
    "C:\\new\\x00\x00\x07",
    "猫, قطة, שלום",
]
REVISION = "0123456789abcdef0123456789abcdef01234567"
RECIPE: dict[str, Any] = {
    "output_dir": "outputs/animals", "do_train": True, "dataset_name": "me/animals", "image_size": 224,
    "model_name_or_path": "google/vit-base", "learning_rate": 0.0003, "weight_decay": 0.05, "logging_steps": 50,
    "num_train_epochs": 7.0, "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_steps": 321,
}  # fmt: skip


def make_model(**changes: Any) -> ModelRecord:
    model = ModelRecord("ViTForImageClassification", 85_806_346, 85_806_346, "apache-2.0")
    return dataclasses.replace(model, **changes)


def plant_export(folder: Path, format: str = "onnx", path: str = "model.onnx", **changes: Any) -> None:
    """An exported model's record beside a file that is none."""
    accuracy = Estimate(0.8123, 0.8, 0.8245, 600, "wilson")
    record = ExportRecord(
        format=format, path=path, runtime="onnxruntime 1.31.1", precision="float32", hints={}, input="pixel_values",
        opset=18, float_layers=[], size_mb=343.2, split="test", num_examples=600, top1_agreement=0.9984, num_ties=0,
        tie_tolerance=1e-4, max_probability_difference=0.00012, accuracy=accuracy,
        accuracy_difference=Estimate(-0.0012, -0.003, 0.0006, 600, "bootstrap"), max_accuracy_drop=None, budget="",
        latency={"n": 100, "p50_ms": 12.34, "p95_ms": 23.47, "pytorch_p50_ms": 45.67, "pytorch_p95_ms": 56.78},
        throughput={"batch_size": 32, "images_per_s": 78.9}, device="a processor", threads=2, versions={},
        preprocessing={
            "shortest_edge": None, "resize": [224, 224], "resample": 2, "crop": None, "rescale_factor": 1 / 255,
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        },
    )  # fmt: skip
    (folder / format).mkdir()
    (folder / format / path).write_bytes(b"none")
    dataclasses.replace(record, **changes).save(folder / format / "export.json")


def make_run(**changes: Any) -> RunRecord:
    run = RunRecord(
        state="finished",
        recipe=RECIPE,
        seed=42,
        data={},
        versions={"python": "3.11.7", "hf_imgcls": "0.1.0", "transformers": "4.57.6"},
        code=REVISION,
        hardware={"platform": "Linux", "processor": "x86_64", "cores": 16, "gpus": ["NVIDIA H100"]},
        world_size=2,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=4,
        started_at="2026-05-04T03:02:01+00:00",
        base_model="google/vit-base",
        base_model_revision=REVISION[::-1],
        model=make_model(),
    )
    return dataclasses.replace(run, **changes)


def make_data(labels: list[str], **changes: Any) -> DataRecord:
    def split(name: str, size: int) -> SplitRecord:
        counts = {label: size // len(labels) for label in labels}
        return SplitRecord(name, name, sum(counts.values()), counts, f"{size:016x}", name, False, sum(counts.values()))

    data = DataRecord(
        source="me/animals",
        labels=labels,
        image_column="photo",
        label_column="kind",
        config="large",
        revision=REVISION,
        splits={name: split(name, size) for name, size in (("train", 50_000), ("validation", 5_000), ("test", 6_000))},
        image_modes={"RGB": 60_000, "L": 1_000},
        notes=["3 of 50,003 images of train cannot be read and were left out: cats/1.png, see bad_images.csv."],
    )
    return dataclasses.replace(data, **changes)


@functools.cache
def _measure(labels: tuple[str, ...]) -> ReportRecord:
    return make_record(make_table(len(labels), 600, labels=list(labels)))


def make_report(labels: list[str], **changes: Any) -> ReportRecord:
    """A report on 600 images."""
    record = copy.deepcopy(_measure(tuple(labels)))
    return dataclasses.replace(record, data="me/animals large", model="outputs/animals", **changes)


def plant_run(
    folder: Path,
    labels: list[str] | None = None,
    *,
    data: DataRecord | None = None,
    run: RunRecord | None = None,
    report: ReportRecord | None = None,
    recipe: dict[str, Any] | None = None,
    has_report: bool = True,
    epoch: float = 7.0,
    steps: int = 1_372,
) -> Path:
    """Write the records of a run into a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    data = data or make_data(labels or [f"animal {index:03d}" for index in range(10)])
    recipe = RECIPE if recipe is None else recipe
    report = report or make_report(data.labels)
    data.save(folder / "data.json")
    dataclasses.replace(run or make_run(), recipe=recipe).save(folder / "run.json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    results = {f"test_{name}": item.value for name, item in report.metrics.items() if item.value is not None}
    write_json(folder / "test_results.json", results | {"test_num_examples": report.num_examples})
    write_json(folder / "train_results.json", {"epoch": epoch, "train_runtime": 5_025.6, "train_loss": 0.25})
    write_json(folder / "trainer_state.json", {"global_step": steps, "best_global_step": 980, "best_metric": 0.8765})
    parity = ParityRecord(600, 599, 1, 599 / 600, 3.4e-7, 1e-4, "pipeline of transformers 4.57.6 on cuda")
    parity.save(folder / "parity.json")
    write_json(folder / "config.json", {"model_type": "vit", "architectures": ["ViTForImageClassification"]})
    size, mean = {"height": 224, "width": 224}, [0.485, 0.456, 0.406]
    write_json(
        folder / "preprocessor_config.json", {"size": size, "do_normalize": True, "image_mean": mean, "image_std": mean}
    )
    if has_report:
        (folder / "report").mkdir(exist_ok=True)
        report.save(folder / "report" / "report.json")
    return folder


def change_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
