"""Comparison of two models: no verdict without a difference, none missed that is there, and mirrored when swapped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted_tables import make_table
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.measure.compare import compare_tables, describe_comparison
from hf_imgcls.measure.paired_answers import SingleLabelAnswers
from hf_imgcls.records import ComparisonRecord

NUM_LABELS = 10

COMPARED = tuple(SingleLabelAnswers.measures)


def draw_pair(generator, n, *, both=0.85, only_a=0.05, only_b=0.05, **others):
    """Tables of two models on the same examples, right together or alone with the chances given."""
    label = generator.integers(0, NUM_LABELS, n)
    case = generator.choice(4, n, p=[both, only_a, only_b, 1 - both - only_a - only_b])
    source = {"fingerprint": "0123456789abcdef"}
    first = make_table(label, np.isin(case, [0, 1]), source=source | {"model": "runs/a"}, **others)
    second = make_table(label, np.isin(case, [0, 2]), source=source | {"model": "runs/b"}, **others)
    return first, second


def compare_accuracy(pair, seed):
    return compare_tables(*pair, metrics=("accuracy",), seed=seed)


@pytest.mark.parametrize(("n", "only_one"), [(150, 0.05), (800, 0.08)], ids=["exact", "mid-p"])
def test_equal_models_are_rarely_told_apart(n, only_one):
    generator, draws = np.random.default_rng(n), 500
    verdicts, tests = [], set()
    for seed in range(draws):
        pair = draw_pair(generator, n, both=0.8, only_a=only_one, only_b=only_one)
        record = compare_tables(*pair, metrics=("accuracy",), seed=seed, draws=400)
        verdicts.append(record.verdict)
        tests.add(record.metrics["accuracy"].test)
        assert not (record.per_class and record.verdict == "not distinguishable" and record.num_examples != n)
    assert ("McNemar (exact)" if n == 150 else "McNemar (mid-p)") in tests
    false = np.mean([verdict != "not distinguishable" for verdict in verdicts])
    assert 0 < false <= 0.06


def test_single_classes_are_rarely_called_changed():
    generator, draws = np.random.default_rng(3), 300
    changed = 0
    for seed in range(draws):
        record = compare_tables(*draw_pair(generator, 1500), metrics=("accuracy",), seed=seed, draws=10)
        changed += any(item["verdict"] != "not distinguishable" for item in record.per_class)
    assert changed / draws <= 0.06


def test_planted_differences_are_found():
    generator = np.random.default_rng(1)
    better = [compare_accuracy(draw_pair(generator, 2000, only_a=0.02, only_b=0.06), s) for s in range(20)]
    assert all(record.verdict == "better" for record in better)
    worse = [compare_accuracy(draw_pair(generator, 2000, only_a=0.06, only_b=0.02), s) for s in range(20)]
    assert all(record.verdict == "worse" for record in worse)
    for record in better:
        difference = record.metrics["accuracy"].difference
        assert 0 < difference.low < difference.value < difference.high
        assert (difference.method, difference.n) == ("bootstrap", 2000)
    covered = [r.metrics["accuracy"].difference for r in better]
    assert sum(item.low <= 0.04 <= item.high for item in covered) >= 17


def test_every_number_is_recomputed():
    first, second = draw_pair(np.random.default_rng(5), 700, only_a=0.04, only_b=0.07)
    record = compare_tables(first, second, metrics=COMPARED, draws=200)
    label, one, other = first.label, first.prediction, second.prediction
    expected = {
        "accuracy": [np.mean(label == prediction) for prediction in (one, other)],
        "balanced_accuracy": [balanced_accuracy_score(label, prediction) for prediction in (one, other)],
        **{
            f"{average}_{name}": [
                measure(label, prediction, average=average, zero_division=0) for prediction in (one, other)
            ]
            for average in ("macro", "weighted")
            for name, measure in {"precision": precision_score, "recall": recall_score, "f1": f1_score}.items()
        },
        "log_loss": [first.log_loss.mean(), second.log_loss.mean()],
    }
    assert list(record.metrics) == list(COMPARED)
    for name in COMPARED:
        values, compared = expected[name], record.metrics[name]
        assert [compared.a, compared.b] == pytest.approx(values, abs=1e-12)
        assert compared.difference.value == pytest.approx(values[1] - values[0], abs=1e-12)
        assert compared.difference.low < compared.difference.value < compared.difference.high
    counts = [int((first.correct == x)[second.correct == y].sum()) for x, y in ((1, 1), (1, 0), (0, 1), (0, 0))]
    assert [record.both_right, record.only_a_right, record.only_b_right, record.none_right] == counts
    assert sum(counts) == record.num_examples == 700
    # The bootstrap of a difference of shares is a multinomial draw of the four counts.
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(700, np.array(counts) / 700, 20_000)
    ends = np.quantile((drawn[:, 2] - drawn[:, 1]) / 700, [0.025, 0.975])
    precise = compare_tables(first, second, metrics=("accuracy",), draws=8000).metrics["accuracy"].difference
    assert [precise.low, precise.high] == pytest.approx(ends, abs=0.0015)
    for item in record.per_class:
        rows = label == int(item["class"].removeprefix("class "))
        a, b = first.correct[rows], second.correct[rows]
        assert (item["n"], item["a"], item["b"]) == (rows.sum(), pytest.approx(a.mean()), pytest.approx(b.mean()))
        assert item["difference"] == pytest.approx(b.mean() - a.mean(), abs=1e-12)
        alone = int((a & ~b).sum()), int((b & ~a).sum())
        assert item["p"] == pytest.approx(binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0)
        assert item["low"] <= item["difference"] <= item["high"]


def test_swapped_models_give_mirrored_results():
    first, second = draw_pair(np.random.default_rng(6), 500, only_a=0.02, only_b=0.08)
    one = compare_tables(first, second, metrics=COMPARED, draws=300, seed=4)
    other = compare_tables(second, first, metrics=COMPARED, draws=300, seed=4)
    assert (one.a, one.b, one.verdict) == ("runs/a", "runs/b", "better")
    assert (other.a, other.b, other.verdict) == ("runs/b", "runs/a", "worse")
    for name in COMPARED:
        ours, theirs = one.metrics[name], other.metrics[name]
        assert (ours.a, ours.b, ours.p) == (theirs.b, theirs.a, theirs.p)
        mirrored = [-theirs.difference.value, -theirs.difference.high, -theirs.difference.low]
        difference = ours.difference
        assert [difference.value, difference.low, difference.high] == pytest.approx(mirrored, abs=1e-12)
        assert {ours.verdict, theirs.verdict} in ({"better", "worse"}, {"not distinguishable"})
    assert (one.only_a_right, one.only_b_right) == (other.only_b_right, other.only_a_right)
    mirrored = {item["class"]: item for item in other.per_class}
    for item in one.per_class:
        twin = mirrored[item["class"]]
        assert item["p_adjusted"] == twin["p_adjusted"]
        assert (item["low"], item["high"]) == pytest.approx((-twin["high"], -twin["low"]), abs=1e-12)
    # A lower loss is the better one.
    assert one.metrics["log_loss"].verdict == "better"
    assert one.metrics["log_loss"].difference.high < 0


def test_the_same_seed_gives_the_same_record_and_it_survives_the_file(tmp_path):
    pair = draw_pair(np.random.default_rng(7), 300)
    record = compare_tables(*pair, seed=3, metrics=("macro_f1", "accuracy"), draws=100)
    assert record == compare_tables(*pair, seed=3, metrics=("macro_f1", "accuracy"), draws=100)
    other = compare_tables(*pair, seed=4, metrics=("macro_f1", "accuracy"), draws=100)
    assert record.metrics["macro_f1"].difference != other.metrics["macro_f1"].difference
    record.save(tmp_path / "comparison.json")
    assert ComparisonRecord.load(tmp_path / "comparison.json") == record
    assert (record.decided_by, record.verdict) == ("macro_f1", record.metrics["macro_f1"].verdict)
    sentence = describe_comparison(record)
    assert sentence.startswith("runs/b cannot be told from runs/a: macro_f1")
    assert "300 examples of test" in sentence


def test_other_metrics_are_rarely_told_apart_either():
    generator, draws = np.random.default_rng(8), 120
    false = 0
    for seed in range(draws):
        record = compare_tables(*draw_pair(generator, 200), metrics=("macro_f1",), seed=seed, draws=150)
        false += record.verdict != "not distinguishable"
    assert false / draws <= 0.08  # of 5 %, with two standard deviations
    planted = compare_tables(*draw_pair(generator, 800, only_a=0.01, only_b=0.08), metrics=("macro_f1",), draws=150)
    assert planted.verdict == "better"


def test_a_model_and_itself():
    first, _ = draw_pair(np.random.default_rng(2), 200)
    record = compare_tables(first, first, metrics=COMPARED, draws=50)
    assert record.verdict == "not distinguishable"
    assert {(item.p, item.verdict) for item in record.metrics.values()} == {(1.0, "not distinguishable")}
    difference = record.metrics["accuracy"].difference
    assert (difference.value, difference.method) == (0.0, "newcombe")
    assert -0.05 < difference.low < 0 < difference.high < 0.05, "equal on 200 examples is not equal on all"


def test_one_class_that_got_worse():
    generator, n = np.random.default_rng(9), 4000
    label = generator.integers(0, NUM_LABELS, n)
    right = generator.random(n) < 0.9
    spoiled = right & ~((label == 4) & (generator.random(n) < 0.25))
    improved = spoiled | ((label == 7) & (generator.random(n) < 0.9))
    record = compare_tables(make_table(label, right), make_table(label, improved), draws=200)
    first, second = record.per_class[:2]
    assert (first["class"], first["verdict"]) == ("class 4", "worse")
    assert (second["class"], second["verdict"]) == ("class 7", "better")
    assert all(item["verdict"] == "not distinguishable" for item in record.per_class[2:])
    assert first["high"] < 0 < second["low"]


def test_models_with_classes_in_another_order():
    first, second = draw_pair(np.random.default_rng(10), 400, only_b=0.09)
    order = np.random.default_rng(0).permutation(NUM_LABELS)
    new_id = np.argsort(order)
    permuted = dataclasses.replace(
        second,
        labels=[*(second.labels[k] for k in order), "only b knows it"],
        label=new_id[second.label],
        prediction=np.where(np.arange(400) == 5, NUM_LABELS, new_id[second.prediction]),
    )
    plain = dataclasses.replace(second, prediction=np.where(np.arange(400) == 5, -1, second.prediction))
    one = compare_tables(first, permuted, draws=50)
    assert one.labels == [*first.labels, "only b knows it"]
    right = (plain.prediction == plain.label).mean()
    assert one.metrics["accuracy"].b == pytest.approx(right)
    assert len(one.per_class) == NUM_LABELS
    assert compare_tables(permuted, first, draws=50).metrics["accuracy"].a == pytest.approx(right)

    repeated = [*first.labels[:-1], first.labels[0]]
    twice = dataclasses.replace(first, labels=repeated)
    names = [item["class"] for item in compare_tables(twice, twice, draws=10).per_class]
    assert {"class 0 (0)", "class 0 (9)"} <= set(names)
    with pytest.raises(DataError, match="two classes are called 'class 0'"):
        compare_tables(twice, dataclasses.replace(first, labels=repeated[::-1]))


def test_other_data_is_an_error():
    first, second = draw_pair(np.random.default_rng(11), 100)
    with pytest.raises(DataError, match=r"fingerprint 0123456789abcdef and f00; split 'test' and 'validation'"):
        compare_tables(first, dataclasses.replace(second, split="validation", source={"fingerprint": "f00"}))
    moved = second.label.copy()
    moved[7] = (moved[7] + 1) % NUM_LABELS
    with pytest.raises(DataError, match=r"1 of 100 examples have another label .* sample_index 7: 'class"):
        compare_tables(first, dataclasses.replace(second, label=moved))
    with pytest.raises(DataError, match="none of 100 and 100 examples"):
        compare_tables(first, dataclasses.replace(second, sample_index=second.sample_index + 100))
    with pytest.raises(DataError, match="split 'test' and 'validation'"):
        compare_tables(first, dataclasses.replace(second, split="validation", source={}))
    with pytest.raises(ArgumentError, match="'macro_f2'; did you mean macro_f1"):
        compare_tables(first, second, metrics=("macro_f2",))
    with pytest.raises(ArgumentError):
        compare_tables(first, second, metrics=())


def test_only_common_examples_count_and_it_is_said():
    first, second = draw_pair(np.random.default_rng(12), 100)
    right = np.roll(second.label, -40)
    unknown = dataclasses.replace(
        second, sample_index=second.sample_index + 40, source={}, label=right, prediction=right
    )
    record = compare_tables(first, unknown, draws=50)
    assert record.num_examples == 60
    assert record.metrics["accuracy"].a == pytest.approx(first.correct[40:].mean())
    assert record.metrics["accuracy"].b == 1.0
    assert any("60 examples that both have" in note for note in record.notes)
    assert any("no fingerprint" in note for note in record.notes)
