"""What a model is held against: its largest class as the only answer, and a probe's prediction table beside it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_label_tables import make_label_logits, make_label_table
from made_tables import make_logits, make_table
from publish.planted_runs import RECIPE, make_data, make_run, plant_run

from hf_imgcls.measure.baselines import (
    PROBE_FILE,
    PROBE_KEY,
    answer_constantly,
    choose_metric,
    describe_baseline,
    find_baselines,
)
from hf_imgcls.measure.results import read_baselines
from hf_imgcls.measure.tables import Table
from hf_imgcls.measure.task import SINGLE
from hf_imgcls.publish.card import check_card, write_card
from hf_imgcls.records import LARGEST_CLASS, PROBE, SplitRecord, write_json

COUNTS = (300, 100, 50, 30, 20)
LABELS = [f"kind {index}" for index in range(len(COUNTS))]


def make_answers(accuracy, seed=0, n=200, fingerprint="0123"):
    """A model that is right on a share of images, whose classes come as ``COUNTS`` says."""
    random = np.random.default_rng(7)
    label = random.choice(len(COUNTS), n, p=np.array(COUNTS) / sum(COUNTS))
    is_right = np.random.default_rng(seed).random(n) < accuracy
    answer = np.where(is_right, label, (label + 1 + np.arange(n) % (len(COUNTS) - 1)) % len(COUNTS))
    logits = np.random.default_rng(seed).normal(size=(n, len(COUNTS)))
    logits[np.arange(n), answer] += 9
    table = make_table(logits, label, labels=LABELS)
    table.source = {"model": "elsewhere", "fingerprint": fingerprint}
    return table


@pytest.fixture
def run(tmp_path):
    """A finished fine-tuning on 500 images."""
    data = make_data(LABELS)
    counts = dict(zip(LABELS, COUNTS, strict=True))
    data.splits["train"] = SplitRecord("train", "made", sum(COUNTS), counts, "0")
    return plant_run(tmp_path / "run", data=data, run=make_run(base_model="google/vit-base"))


def test_the_constant_answer_scores_what_its_class_has():
    table = make_answers(0.9)
    constant = answer_constantly(table, dict(zip(LABELS, COUNTS, strict=True)), sum(COUNTS))
    assert (constant.prediction == 0).all()
    assert constant.correct.mean() == (table.label == 0).mean()
    np.testing.assert_allclose(constant.top_probabilities[0], (np.array(COUNTS) + 1) / (sum(COUNTS) + 5), rtol=1e-6)
    np.testing.assert_allclose(constant.log_loss, -np.log(constant.probabilities[0][table.label]), rtol=1e-6)


@pytest.mark.parametrize("case", ["random", "one example", "many classes", "absent classes"])
def test_the_constant_answer_is_a_table_like_any_other(case, tmp_path):
    table = make_table(*make_logits(case))
    constant = answer_constantly(table, {}, 0)
    constant.save(tmp_path / "constant.parquet")
    assert (Table.load(tmp_path / "constant.parquet").prediction == 0).all()


def test_a_model_below_its_largest_class_says_so(run):
    table = make_answers(0.4)
    share = float((table.label == 0).mean())
    found = find_baselines(table, run)
    largest, probe = found.compared
    assert (largest.name, largest.answer, largest.metric) == (LARGEST_CLASS, "kind 0", "accuracy")
    assert largest.comparison.a == share
    assert largest.comparison.verdict == "worse"
    assert found.shortfall.startswith(f"Not better than always answering 'kind 0' ({100 * share:.1f} %): accuracy is ")
    assert probe.comparison is None
    assert "no probe" in describe_baseline(probe)


def test_a_difference_that_may_be_chance_is_no_lead(run):
    table = make_answers(0.65, seed=3)
    found = find_baselines(table, run)
    told = found.compared[0].comparison
    assert told.b > told.a
    assert told.verdict == "not distinguishable"
    assert f"may be chance (p = {told.p:.2g})" in found.shortfall


def test_a_model_that_is_better_than_all_says_nothing(run):
    make_answers(0.75, seed=1).save(run / PROBE_FILE.format(split="test"))
    found = find_baselines(make_answers(0.95, seed=2), run)
    assert [item.name for item in found.compared] == [LARGEST_CLASS, PROBE]
    assert {item.comparison.verdict for item in found.compared} == {"better"}
    assert found.shortfall == ""


def test_a_model_that_is_as_good_as_the_probe_names_it(run):
    probe = make_answers(0.9, seed=1)
    probe.source[PROBE_KEY] = 500
    probe.save(run / PROBE_FILE.format(split="test"))
    found = find_baselines(make_answers(0.9, seed=2), run)
    assert found.shortfall.startswith("Not better than a linear probe of 500 images (")
    assert "kind 0" not in found.shortfall


def test_a_probe_of_other_images_is_not_compared(run):
    make_answers(0.9, fingerprint="other").save(run / PROBE_FILE.format(split="test"))
    probe = find_baselines(make_answers(0.9), run).compared[1]
    assert probe.comparison is None
    assert "the run's own images" in probe.remark
    elsewhere = dataclasses.replace(make_answers(0.9), split="validation")
    assert "another split" in find_baselines(elsewhere, run).compared[1].remark


def test_who_is_a_probe_is_not_held_against_one(run):
    write_json(run / "train_results.json", {"train_penalty": 0.1})
    assert [item.name for item in find_baselines(make_answers(0.9), run).compared] == [LARGEST_CLASS]


def test_a_model_from_scratch_has_one_baseline_and_one_of_no_run_has_none(run, tmp_path):
    make_run(base_model=None).save(run / "run.json")
    assert [item.name for item in find_baselines(make_answers(0.9), run).compared] == [LARGEST_CLASS]
    assert find_baselines(make_answers(0.9), tmp_path) is None


@pytest.mark.parametrize(
    ("recipe", "metric"),
    [
        ({}, "accuracy"),
        ({"metric_for_best_model": "eval_macro_f1"}, "macro_f1"),
        ({"metric_for_best_model": "log_loss", "imbalance": "logit_adjust"}, "balanced_accuracy"),
        ({"metric_for_best_model": "log_loss"}, "accuracy"),
    ],
)
def test_a_run_about_all_classes_is_judged_by_all_classes(recipe, metric, run):
    assert choose_metric(recipe, SINGLE) == metric
    make_run(recipe={**RECIPE, **recipe} if recipe else {}).save(run / "run.json")
    largest = find_baselines(make_answers(0.8), run).compared[0]
    assert largest.metric == metric
    if metric == "balanced_accuracy":
        assert largest.comparison.a == pytest.approx(1 / len(COUNTS))
        assert largest.comparison.verdict == "better"


def test_several_labels_are_held_against_their_shares(run):
    logits, targets = make_label_logits("random")
    table = make_label_table(logits, targets)
    data = make_data(table.labels)
    counts = dict(zip(table.labels, targets.sum(axis=0).tolist(), strict=True))
    data.splits["train"] = SplitRecord("train", "made", len(targets), counts, "0")
    data.save(run / "data.json")
    largest = find_baselines(table, run).compared[0]
    assert largest.comparison.a == pytest.approx(targets.mean(axis=0).mean())
    assert largest.comparison.verdict == "better"
    blind = make_label_table(np.random.default_rng(0).normal(size=logits.shape), targets)
    shortfall = find_baselines(blind, run).shortfall
    assert shortfall.startswith("Not better than giving each class its share of the training images (0.")


def test_the_card_begins_with_what_the_model_is_not_better_than(run):
    baselines = dataclasses.asdict(find_baselines(make_answers(0.4), run))
    assert read_baselines(baselines).compared[0].comparison.verdict == "worse"
    path = run / "test_results.json"
    write_json(path, {"test_accuracy": 0.4, "test_num_examples": 200, "test_baselines": baselines})
    (run / "report" / "report.json").unlink()
    card = write_card(run).read_text()
    check_card(run)
    body = card.split("\n---\n", 1)[1].split("\n", 3)[3]
    assert body.startswith("> [!WARNING]\n> **Not better than always answering 'kind 0' (")
    assert "| Largest class: always kind 0 | Accuracy 0." in card


def test_few_steps_are_enough_for_a_model_that_is_better_than_its_largest_class(run):
    write_json(run / "trainer_state.json", {"global_step": 60})
    (run / "report" / "report.json").unlink()
    for accuracy, is_smoke in ((0.4, True), (0.95, False)):
        baselines = dataclasses.asdict(find_baselines(make_answers(accuracy), run))
        path = run / "test_results.json"
        write_json(path, {"test_accuracy": accuracy, "test_num_examples": 200, "test_baselines": baselines})
        assert ("This is a smoke run" in write_card(run).read_text()) is is_smoke


def test_what_may_help_stands_behind_what_was_not_beaten(run):
    make_run(base_model="google/vit-base", recipe={"learning_rate": 1e-6, "num_train_epochs": 3}).save(run / "run.json")
    write_json(run / "trainer_state.json", {"global_step": 6})
    shortfall = find_baselines(make_answers(0.4), run).shortfall
    assert ". What may help: a learning rate of 1e-06 is low" in shortfall
    assert "6 steps are few to fine-tune with: --num_train_epochs" in shortfall
    assert shortfall.endswith(".")
