"""The benchmarks run; what they measure is only worth something on a quiet machine."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from places import REPOSITORY

from hf_imgcls.provenance import has_bfloat16


@pytest.fixture
def load_benchmark(monkeypatch):
    """Import a script of benchmarks/, with a command line for it."""
    num_threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))

    def load(name, *argv):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *argv])
        return importlib.import_module(name)

    yield load
    torch.set_num_threads(num_threads)


def test_trainer_overhead(load_benchmark):
    benchmark = load_benchmark("trainer_overhead")
    config = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "patch_size": 4,
    }
    # It raises unless both loops trained to the same weights, so that they did the same work.
    ours, bare, ratio = benchmark.compare(config, image_size=8, batch_size=8, num_steps=6)
    assert ours > 0
    assert bare > 0
    assert 0.2 < ratio < 20


def test_trainer_overhead_notices_loops_that_differ(load_benchmark, monkeypatch):
    benchmark = load_benchmark("trainer_overhead")
    monkeypatch.setattr(benchmark.torch.nn.functional, "cross_entropy", halve(torch.nn.functional.cross_entropy))
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
    with pytest.raises(RuntimeError, match="different weights"):
        benchmark.compare(config, image_size=8, batch_size=8, num_steps=6)


def halve(function):
    """The bare loop's loss, shrunk; the Trainer's, one per sample, left alone. AdamW hides it, but for clipping."""

    def changed(*args, **options):
        loss = function(*args, **options)
        return loss if options.get("reduction") == "none" else 0.01 * loss

    return changed


@pytest.mark.slow
def test_gpu_training_smoke(load_benchmark, tmp_path, capsys):
    pytest.importorskip("timm")
    benchmark = load_benchmark("gpu_training", "--smoke", "--output", str(tmp_path / "table.txt"))
    benchmark.main()
    table = (tmp_path / "table.txt").read_text().splitlines()
    rows = [line for line in table if line.startswith("tiny")]
    assert len(rows) == 4  # two models, ready batches and files
    assert all(" 0.00 " not in row for row in rows)
    assert capsys.readouterr().out.splitlines() == table


@pytest.mark.skipif(torch.cuda.is_available(), reason="says something else on a GPU")
def test_gpu_training_without_a_gpu(load_benchmark, capsys):
    pytest.importorskip("timm")
    load_benchmark("gpu_training").main()
    assert capsys.readouterr().out == "not measured: no CUDA device\n"


def test_flops_are_those_of_the_architecture(load_benchmark):
    pytest.importorskip("timm")
    benchmark = load_benchmark("gpu_training")
    # 17.6 and 4.5 billion multiply-adds forward (timm's published profiles), two operations each, three passes.
    for name, published in (("ViT-B/16", 17.58e9), ("ConvNeXt-T", 4.47e9)):
        assert benchmark.count_flops(benchmark.CASES[name]) == pytest.approx(6 * published, rel=0.02)


def test_export_latency_smoke(load_benchmark, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    formats = ("--formats", "onnx", "openvino")
    benchmark = load_benchmark("export_latency", "--smoke", *formats, "--output", str(tmp_path / "table.txt"))
    benchmark.main()
    table = (tmp_path / "table.txt").read_text().splitlines()
    names = [line[:32].strip() for line in table[2:]]
    assert names == ["PyTorch, eager", "onnx", "openvino", "openvino, its default precision"]
    assert all(float(line[32:].split()[1]) > 0 for line in table[2:])
    assert capsys.readouterr().out.splitlines()[-len(table) :] == table


def test_a_long_tail_keeps_a_hundredth_of_the_last_class(load_benchmark, tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, load_dataset

    benchmark = load_benchmark("imbalance")
    labels = [number % 10 for number in range(10_000)]
    features = Features(label=ClassLabel(num_classes=10))
    split = Dataset.from_dict({"label": labels}, features=features)
    benchmark.make_long_tailed(DatasetDict(train=split, test=split), 500, 100, 200, 0, tmp_path)
    made = load_dataset(str(tmp_path))
    counts = sorted((made["train"]["label"][:].count(label) for label in range(10)), reverse=True)
    assert counts == [round(500 * 100 ** (-k / 9)) for k in range(10)]
    assert counts[-1] == 5
    assert len(made["test"]) == 200


@pytest.mark.slow
def test_the_table_of_techniques(load_benchmark, capsys):
    load_benchmark(
        "ablate", "--dataset", "digits", "--train", "64", "--test", "50", "--epochs", "1", "--only", "ema"
    ).main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:17].strip() for line in lines[1:3]] == ["as it is", "ema"]
    for line in lines[1:3]:
        accuracy, low, _, high, minutes = (float(word) for word in line[17:].replace(" - ", " 0 ").split())
        assert low <= accuracy <= high
        assert minutes > 0


def test_cpu_step(load_benchmark):
    benchmark = load_benchmark("cpu_step")
    # A CPU without bfloat16 would take its time over the last.
    seconds = benchmark.time_in_process(benchmark.VARIANTS[-1 if has_bfloat16() else 2], steps=2)
    assert len(seconds) == 2
    assert all(second > 0 for second in seconds)
