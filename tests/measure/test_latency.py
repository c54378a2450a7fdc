"""Latency: what is timed and what is said about it; never how long it takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TINY_CONFIGS
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.measure import latency
from hf_imgcls.measure.latency import (
    estimate_percentile,
    measure_latency,
    measure_size_mb,
    summarize_timings,
    time_calls,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**TINY_CONFIGS["vit"], image_size=32, num_labels=3)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture():
    return Image.new("RGB", (50, 40), (90, 120, 30))


class Clock:
    """Time that passes only when told to, and a call that takes as long as it is told."""

    def __init__(self, durations):
        self.now, self.durations, self.num_calls = 0.0, list(durations), 0

    def perf_counter(self):
        return self.now

    def call(self):
        self.now += self.durations[self.num_calls]
        self.num_calls += 1


def test_only_the_runs_after_warm_up_are_timed(monkeypatch):
    clock = Clock([9.0, 9.0, 9.0, 0.001, 0.002, 0.003])
    monkeypatch.setattr(latency, "time", clock)
    assert time_calls(clock.call, runs=3, warmup=3).tolist() == pytest.approx([1.0, 2.0, 3.0])
    assert clock.num_calls == 6


def test_what_a_device_still_does_is_waited_for(monkeypatch):
    clock = Clock([0.001] * 4)
    pending = []

    def call():
        clock.call()
        pending.append(0.5)  # goes on behind the call's back

    def synchronize():
        clock.now += sum(pending)
        pending.clear()

    monkeypatch.setattr(latency, "time", clock)
    timed = time_calls(call, runs=3, warmup=1, synchronize=synchronize)
    assert timed.tolist() == pytest.approx([501.0] * 3), "the warm-up's work is not in it"


def test_percentiles_and_their_intervals():
    durations = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    summary = summarize_timings(durations)
    assert summary["n"] == 100
    assert summary["p50_ms"] == pytest.approx(np.quantile(durations, 0.5))
    assert summary["p95_ms"] == pytest.approx(np.quantile(durations, 0.95))
    # Hahn and Meeker: of 100 values the 40th to the 61st hold the median with at least 95 %.
    assert (summary["p50_low_ms"], summary["p50_high_ms"]) == (40, 61)
    assert summary["p95_high_ms"] == 100
    assert summarize_timings(durations[:20])["p95_high_ms"] is None
    assert estimate_percentile(np.array([3.0]), 0.5) == (3.0, None, None)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_intervals_cover_the_percentile(share):
    generator = np.random.default_rng(1)
    truth = -np.log(1 - share)  # of the exponential distribution
    ends = [estimate_percentile(generator.exponential(size=100), share)[1:] for _ in range(1000)]
    assert np.mean([low <= truth <= high for low, high in ends]) >= 0.94


def test_structure(folder, picture):
    before = torch.get_num_threads()
    result = measure_latency(folder, picture, device="cpu", runs=5, warmup=1, num_threads=before + 1)
    assert torch.get_num_threads() == before
    assert (result["batch_size"], result["warmup"], result["threads"]) == (1, 1, before + 1)
    assert (result["device"], result["dtype"], result["image_size_px"]) == ("cpu", "float32", [50, 40])
    assert result["device_name"]
    assert result["size_mb"] == pytest.approx((folder / "model.safetensors").stat().st_size / 1e6)
    for name in ("pipeline", "model"):
        timed = result[name]
        assert timed["n"] == 5
        assert 0 < timed["p50_ms"] <= timed["p95_ms"]
        assert timed["p50_low_ms"] is None, "five runs are too few for an interval"
    assert "50 x 40" in result["pipeline"]["timed"]
    assert "(1, 3, 32, 32)" in result["model"]["timed"]


def test_both_are_called_as_often_as_it_is_said(folder, picture, monkeypatch):
    calls = []

    def count_calls(call, *, runs, warmup, synchronize):
        answer = call()
        calls.append((runs, warmup, answer))
        return time_calls(call, runs=runs, warmup=warmup, synchronize=synchronize)

    monkeypatch.setattr(latency, "time_calls", count_calls)
    result = measure_latency(folder, picture, device="cpu", runs=2, warmup=0)
    assert [call[:2] for call in calls] == [(2, 0), (2, 0)]
    answer, output = calls[0][2], calls[1][2]
    # Both compute the same: the pipeline's scores are the softmax of the model's logits.
    scores = torch.softmax(output.logits[0], dim=-1)
    assert answer[0]["score"] == pytest.approx(float(scores.max()), abs=1e-6)
    assert result["threads"] == torch.get_num_threads()
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    still = measure_latency(folder, picture.convert("L"), device="cpu", runs=1, warmup=0)
    assert still["pipeline"]["p95_ms"] == 0.0


def test_threads_are_restored_after_an_error(tmp_path, picture):
    before = torch.get_num_threads()
    with pytest.raises(ModelError, match=str(tmp_path)):
        measure_latency(tmp_path, picture, num_threads=before + 1)
    assert torch.get_num_threads() == before
    with pytest.raises(ArgumentError, match="0 timed runs"):
        measure_latency(tmp_path, picture, runs=0)
    assert measure_size_mb(tmp_path) is None
