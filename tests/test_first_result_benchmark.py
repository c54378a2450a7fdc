"""benchmarks/first_result.py: its sets, its comparison, its table, and a cell of a peer and of ours run for real."""

from __future__ import annotations

import argparse
import importlib
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from places import REPOSITORY
from scipy.stats import binomtest
from tiny_models import TINY_CONFIGS
from transformers import ViTConfig, ViTForImageClassification

from hf_imgcls.compat.models import plain_image_processor_class


@pytest.fixture
def modules(monkeypatch):
    """Import what the benchmark is made of, by the end of its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return {name: importlib.import_module(f"first_result{'_' if name else ''}{name}") for name in ("", "sets", "table")}


def test_groups_stay_whole_and_every_class_is_on_both_sides(modules):
    sets = modules["sets"]
    samples = [
        sets.Sample(label, f"{label}{group}", Image.new("L", (1, 1)))
        for label, groups in (("many", 40), ("two", 2))
        for group in range(groups)
        for _ in range(3)
    ]
    first, second = sets.cut_groups(samples, 0.15, np.random.default_rng(0))
    assert not {sample.group for sample in first} & {sample.group for sample in second}
    assert {sample.label for sample in first} == {sample.label for sample in second} == {"many", "two"}
    assert len(first) + len(second) == len(samples)
    assert len(second) == 3 * (6 + 1)


def test_letters_do_not_repeat_and_reading_the_folders_gives_what_was_drawn(modules, tmp_path):
    sets = modules["sets"]
    random, seen = np.random.default_rng(0), set()
    training, test = sets.draw_letters(8, random, seen), sets.draw_letters(3, random, seen)
    assert len(seen) == 10 * (8 + 3)
    sets.save_set(tmp_path, training, test, random)
    counts = {split: len(list((tmp_path / split).glob("*/*.png"))) for split in ("train", "validation", "test")}
    assert counts == {"train": 70, "validation": 10, "test": 30}


def make_cell(right: str, seed: int = 0, **others: float) -> dict[str, object]:
    return {
        "seed": seed, "right": right, "accuracy": right.count("1") / len(right), "macro_f1": 0.5, "log_loss": 1.0,
        "cpu_s": 10.0, "largest_class": 0.25, "commit": "abc", **others,
    }  # fmt: skip


def test_an_image_votes_once_however_many_seeds_there_are(modules):
    table = modules["table"]
    ours, peer = "1" * 12 + "0" * 8, "0" * 10 + "1" * 3 + "0" * 7
    once = [make_cell(ours)], [make_cell(peer)]
    twice = [make_cell(ours), make_cell(ours, seed=1)], [make_cell(peer), make_cell(peer, seed=1)]
    assert table.count_votes(*once) == table.count_votes(*twice) == (10, 1)
    chance = binomtest(10, 11).pvalue
    assert table.compare(*once) == f"first (better on 10, worse on 1 images, p = {chance:.2g})"
    assert table.compare(*reversed(twice)).startswith("behind (better on 1, worse on 10 images")
    assert table.compare(once[0], once[0]) == "not distinguishable (better on 0, worse on 0 images, p = 1)"


def test_the_table_names_the_best_peer_and_what_was_not_run(modules, tmp_path):
    table = modules["table"]
    methods = {
        "timm3": [make_cell("1100")],
        "fastai3": [make_cell("1110", cpu_s=20.0), make_cell("1110", 1, cpu_s=20.0)],
        "default": [make_cell("1111")],
    }
    lines = table.build_table({("lite0", "letters"): methods}).splitlines()
    assert "letters, lite0: 4 test images, largest class 0.250" in lines
    (ours,) = (line for line in lines if line.startswith("  ours, no flag (auto)  "))
    assert ours.split()[4:] == ["1.000", "0.500", "1.00", "10", "1.000"]
    assert any("ours, no flag (auto) against fastai fine_tune(3): not distinguishable" in line for line in lines)
    assert lines[-1].startswith("  not run: transformers' script, 3 epochs; timm's values, 10 epochs;")
    table.draw({("lite0", "letters"): methods}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.exhaustive
def test_cells_of_a_peer_and_of_ours_answer_the_same_images(modules, tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(**{**TINY_CONFIGS["vit"], "image_size": 28, "patch_size": 7})
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    plain_image_processor_class()(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "vit")
    sets, benchmark = modules["sets"], modules[""]
    random, seen = np.random.default_rng(0), set()
    training, test = sets.draw_letters(8, random, seen), sets.draw_letters(3, random, seen)
    sets.save_set(tmp_path / "sets" / "letters", training, test, random)
    options = argparse.Namespace(work=tmp_path, fastai_python=sys.executable)
    cell = {"set": "letters", "backbone": "vit", "seed": 0}
    found = [benchmark.run_cell({**cell, "method": method}, options) for method in ("timm3", "probe")]
    assert [len(each["right"]) for each in found] == [30, 30]
    for each in found:
        assert each["accuracy"] == pytest.approx(each["right"].count("1") / 30)
        assert each["largest_class"] == pytest.approx(0.1)
        assert each["log_loss"] > 0
        assert each["cpu_s"] > 1
