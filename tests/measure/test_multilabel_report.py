"""Every number of a multi-label report from its table; intervals, calibration, comparison, goals and the page."""

from __future__ import annotations

import dataclasses
import io
import json

import datasets
import numpy as np
import pytest
from made_label_tables import LABEL_CASES, make_label_case, make_label_logits, make_label_table, read_label_columns
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import binomtest
from sklearn import metrics as sk
from test_multilabel_metrics import expected_metrics
from test_page import Page

from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.measure.compare import compare_tables
from hf_imgcls.measure.paired_answers import MultiLabelAnswers
from hf_imgcls.measure.report.gallery import build_gallery
from hf_imgcls.measure.report.goals import check_goals, judge, parse_goals
from hf_imgcls.measure.report.sections import list_co_occurrences, list_label_mistakes
from hf_imgcls.measure.report.slices import build_slices, relate_support_to_recall
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.measure.report.write import read_report, write_report
from hf_imgcls.measure.statistics.calibration import fit_sigmoid_temperature, read_logits
from hf_imgcls.measure.tables import MultiLabelTable, Table

CLOSE = {"rel": 1e-9, "abs": 1e-9}


# ------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("case", LABEL_CASES)
def test_a_table_is_read_as_it_was_written(tmp_path, case):
    table = make_label_case(case)
    table.metadata["camera"] = [None if row % 5 == 0 else f"camera {row % 3}" for row in range(len(table))]
    table.files[0] = "a.png"
    table.save(tmp_path / "predictions_test.parquet")
    again = Table.load(tmp_path / "predictions_test.parquet")
    assert isinstance(again, MultiLabelTable)
    for field in dataclasses.fields(MultiLabelTable):
        one, other = getattr(table, field.name), getattr(again, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, field.name
        assert not isinstance(one, np.ndarray) or one.dtype == other.dtype


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "predictions_test.parquet"
    table = make_label_case("random")
    dataclasses.replace(table, thresholds=np.zeros(3)).save(path)
    with pytest.raises(DataError, match="3 thresholds for 8 classes"):
        Table.load(path)
    dataclasses.replace(table, scores=table.scores + np.float32(1)).save(path)
    with pytest.raises(DataError, match="probabilities outside 0 to 1"):
        Table.load(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be used"):
        Table.load(path)


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("case", LABEL_CASES)
def test_every_number_from_the_file(tmp_path, case):
    limits = np.linspace(0.3, 0.7, LABEL_CASES[case][1])
    table = make_label_case(case, thresholds=limits)
    table.save(tmp_path / "t.parquet")
    columns = read_label_columns(tmp_path / "t.parquet")
    record = summarise(Table.load(tmp_path / "t.parquet"), draws=200)
    targets, scores = columns["targets"].astype(bool), columns["scores"]
    answers = scores >= columns["thresholds"]
    expected = expected_metrics(scores, targets, limits)
    expected |= {"log_loss": columns["log_loss"].mean(), "brier": ((scores - targets) ** 2).mean()}
    for name, value in expected.items():
        estimate = record.metrics[name]
        assert estimate.value == pytest.approx(value, **CLOSE), name
        if estimate.low is None:
            assert estimate.remark.startswith("no interval: too few")
        else:
            assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == len(targets)
    assert all(item.remark for item in record.metrics.values() if item.value is None)
    for label, estimates in enumerate(record.per_class.values()):
        own, answered = targets[:, label], answers[:, label]
        assert estimates["recall"].n == own.sum()
        if own.any():
            assert estimates["recall"].value == pytest.approx(sk.recall_score(own, answered, zero_division=0), **CLOSE)
            ap = sk.average_precision_score(own, scores[:, label])
            assert estimates["average_precision"].value == pytest.approx(ap, **CLOSE)
        if answered.any():
            assert estimates["precision"].value == pytest.approx(sk.precision_score(own, answered), **CLOSE)
        if own.any() or answered.any():
            assert estimates["f1"].value == pytest.approx(sk.f1_score(own, answered), **CLOSE)
        assert estimates["brier"].value == pytest.approx(sk.brier_score_loss(own, scores[:, label]), **CLOSE)
        bins = np.clip(np.ceil(scores[:, label] * 15) - 1, 0, 14)
        gaps = [abs((own - scores[:, label])[bins == b].sum()) for b in range(15)]
        assert estimates["ece"].value == pytest.approx(sum(gaps) / len(own), **CLOSE)
        assert estimates["ece"].low <= estimates["ece"].value <= estimates["ece"].high
    bins = record.calibration["bins"]
    assert sum(item["n"] for item in bins) == targets.size
    gaps = [item["n"] * abs(item["accuracy"] - item["confidence"]) for item in bins if item["n"]]
    assert sum(gaps) / targets.size == pytest.approx(record.metrics["ece"].value, **CLOSE)
    assert record.risk_coverage == {}
    assert record.confused_pairs == []


def test_missed_and_invented_labels_are_counted():
    table = make_label_case("random")
    targets, answers = table.targets, table.answers
    mistakes = list_label_mistakes(table)
    assert len(mistakes) == 8
    total = [item["missed"] + item["invented"] for item in mistakes]
    assert total == sorted(total, reverse=True)
    for item in mistakes:
        k = item["label_id"]
        assert item["missed"] == (targets[:, k] & ~answers[:, k]).sum()
        assert item["invented"] == (~targets[:, k] & answers[:, k]).sum()
        ends = binomtest(item["missed"], item["n"]).proportion_ci(0.95, "wilson")
        assert (item["missed_low"], item["missed_high"]) == pytest.approx((ends.low, ends.high))
        rows = np.searchsorted(table.sample_index, item["invented_samples"])
        assert (table.scores[rows, k] >= 0.5).all()
        assert not targets[rows, k].any()
        assert table.scores[rows[0], k] == table.scores[~targets[:, k], k].max()
    pairs = list_co_occurrences(table)
    assert pairs
    for pair in pairs:
        a, b = (table.labels.index(pair[key]) for key in ("label", "other"))
        alone = targets[:, a] & ~targets[:, b]
        assert pair["n"] == alone.sum()
        assert pair["together"] == (targets[:, a] & targets[:, b]).sum()
        assert pair["invented"] == (alone & answers[:, b]).sum()
        assert pair["swapped"] == (alone & answers[:, b] & ~answers[:, a]).sum()


def draw_table(generator, n, quality=1.5, **options):
    """Ten classes of falling frequency, with scores that are right about them in a known way."""
    targets = generator.random((n, 10)) < np.linspace(0.5, 0.1, 10)
    logits = 1.5 * generator.normal(size=targets.shape) + np.where(targets, quality, -quality)
    return make_label_table(logits, targets, **options)


def test_the_same_seed_gives_the_same_record():
    table = make_label_case("random")
    assert summarise(table, seed=3, draws=50) == summarise(table, seed=3, draws=50)
    assert summarise(table, seed=3, draws=50) != summarise(table, seed=4, draws=50)


# ------------------------------------------------------------------------------------------------ temperature


def test_the_temperature_has_the_smallest_log_loss():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2000, 5)) * 2
    targets = generator.random(logits.shape) < expit(logits)
    for folded in (0.5, 1.0, 3.0):
        found = fit_sigmoid_temperature(logits * folded, targets)

        def loss(temperature, folded=folded):
            scaled = logits * folded / temperature
            return np.where(targets, np.logaddexp(0, -scaled), np.logaddexp(0, scaled)).mean()

        assert found == pytest.approx(minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x, rel=1e-3)
        assert found == pytest.approx(folded, rel=0.05)
        assert ((logits * folded / found >= 0) == (logits >= 0)).all()
    with pytest.raises(DataError, match="no temperature fits"):
        fit_sigmoid_temperature(logits, logits > 0)


def test_logits_are_read_from_scores():
    logits = np.linspace(-30, 15, 100)
    assert read_logits(expit(logits).astype(np.float32)) == pytest.approx(logits, abs=0.6)
    assert read_logits(expit(logits[:80]).astype(np.float32)) == pytest.approx(logits[:80], rel=1e-3, abs=1e-6)
    assert np.isfinite(read_logits(np.array([0, 1], dtype=np.float32))).all()


def test_a_temperature_is_fitted_on_validation_only():
    source = {"model": "m", "fingerprint": "a"}
    generator = np.random.default_rng(0)
    test = draw_table(generator, 300, quality=3, source=source)
    validation = draw_table(generator, 300, quality=3, split="validation", source=source | {"fingerprint": "b"})
    calibration = summarise(test, draws=20, validation=validation).calibration
    assert calibration["temperature"]["fitted_on"] == "validation"
    assert calibration["temperature"]["log_loss_after"] <= calibration["temperature"]["log_loss_before"]
    expected = fit_sigmoid_temperature(read_logits(validation.scores), validation.targets)
    assert calibration["temperature"]["value"] == expected
    same = dataclasses.replace(validation, source=source)
    assert "same examples" in summarise(test, draws=20, validation=same).calibration["temperature_remark"]
    with pytest.raises(DataError, match="another order"):
        summarise(test, validation=dataclasses.replace(validation, labels=test.labels[::-1]))


# ------------------------------------------------------------------------------------------------ goals, slices


def test_goals():
    check_goals(parse_goals(["mean_average_precision>=0.6", "micro_f1>=0.5", "hamming_loss<=0.2"]), multi_label=True)
    with pytest.raises(ArgumentError, match=r"'accuracy>=0\.9' is not defined where an image has several labels"):
        check_goals(parse_goals(["accuracy>=0.9"]), multi_label=True)
    with pytest.raises(ArgumentError, match=r"'micro_f1>=0\.5' is not defined where an image has one label"):
        check_goals(parse_goals(["micro_f1>=0.5"]), multi_label=False)
    table = draw_table(np.random.default_rng(0), 400)
    table.metadata["camera"] = ["a", "b"] * 200
    record = summarise(table, draws=200)
    record.slices = build_slices(table, ["camera"])
    texts = {
        "mean_average_precision>=0.5": "met",
        "mean_average_precision>=0.99": "not met",
        "worst_class_recall>=0.1": "met",
        "worst_slice_subset_accuracy>=0.9": "not met",
        "hamming_loss<=0.9": "met",
        "worst_slice_accuracy>=0.1": "not measured",
    }
    for goal, status in zip(parse_goals(list(texts)), texts.values(), strict=True):
        assert judge(goal, record)["status"] == status, goal


def test_a_planted_gap_is_found():
    generator = np.random.default_rng(0)
    good, bad = draw_table(generator, 400, quality=4), draw_table(generator, 200, quality=1)
    rows = {
        name: np.concatenate([getattr(good, name), getattr(bad, name)]) for name in ("targets", "scores", "log_loss")
    }
    table = dataclasses.replace(
        good,
        sample_index=np.arange(600),
        files=[None] * 600,
        metadata={"camera": ["good"] * 400 + ["bad"] * 200},
        **rows,
    )
    worst = build_slices(table, ["camera"])[0]
    assert (worst["group"], worst["verdict"], worst["metric"]) == ("bad", "worse", "subset_accuracy")
    assert worst["value"] == table.correct[400:].mean()
    related = relate_support_to_recall(table, dict(zip(table.labels, range(10, 20), strict=True)))
    for item in related["classes"]:
        k = table.labels.index(item["class"])
        assert item["recall"] == pytest.approx(sk.recall_score(table.targets[:, k], table.answers[:, k]))


def test_more_labels_in_a_group_explain_its_gap():
    generator = np.random.default_rng(1)
    targets = np.zeros((2000, 6), dtype=bool)
    targets[:1000, 0] = True
    targets[1000:, :4] = True
    right = generator.random(targets.shape) < 0.9
    table = make_label_table(np.where(targets == right, 3.0, -3.0), targets)
    table.metadata["place"] = ["quiet"] * 1000 + ["crowded"] * 1000
    crowd = generator.permutation(1000) < 100  # a few of each kind on the other side, so that they can be compared
    for row in np.flatnonzero(crowd):
        table.metadata["place"][row], table.metadata["place"][1000 + row] = "crowded", "quiet"
    entry = next(item for item in build_slices(table, ["place"]) if item["group"] == "crowded")
    assert abs(entry["same_class_gap"]) < 0.08


# ------------------------------------------------------------------------------------------------ comparison


def draw_pair(generator, n, better=1.5, **options):
    targets = generator.random((n, 5)) < [0.5, 0.4, 0.3, 0.2, 0.1]
    pair = []
    for name, quality in (("a", 1.5), ("b", better)):
        logits = 1.5 * generator.normal(size=targets.shape) + np.where(targets, quality, -quality)
        pair.append(make_label_table(logits, targets, source={"model": name, "fingerprint": "x"}, **options))
    return pair


def test_a_better_model_is_told_and_the_mirror_says_worse():
    one, other = draw_pair(np.random.default_rng(0), 600, better=3.0)
    record = compare_tables(one, other, draws=200)
    assert record.decided_by == "mean_average_precision"
    assert {item.verdict for item in record.metrics.values()} == {"better"}
    assert record.metrics["subset_accuracy"].test.startswith("McNemar")
    assert record.both_right + record.only_a_right + record.only_b_right + record.none_right == 600
    mirrored = compare_tables(other, one, draws=200)
    assert mirrored.verdict == "worse"
    for name, item in record.metrics.items():
        for table, value in ((one, item.a), (other, item.b)):
            assert value == pytest.approx(summarise(table, draws=2).metrics[name].value, **CLOSE), name
        back = mirrored.metrics[name].difference
        assert (back.value, back.low, back.high) == pytest.approx(
            (-item.difference.value, -item.difference.high, -item.difference.low), **CLOSE
        )
    for item in record.per_class:
        k = one.labels.index(item["class"])
        assert item["n"] == one.targets[:, k].sum()
        assert item["a"] == pytest.approx(sk.recall_score(one.targets[:, k], one.answers[:, k]))


def test_a_weighted_average_precision_is_that_of_repeated_examples():
    table = make_label_case("ties")
    rows, ids = np.arange(len(table)), np.arange(len(table.labels))
    answers = MultiLabelAnswers.take(table, rows, ids, len(ids))
    counts = np.random.default_rng(0).integers(0, 4, len(table))
    for name, measure in answers.measures.items():
        taken = np.repeat(rows, counts)
        repeated = dataclasses.replace(
            answers, **{field.name: getattr(answers, field.name)[taken] for field in dataclasses.fields(answers)}
        )
        expected = measure(repeated, np.ones((1, len(taken))))[0]
        assert measure(answers, counts[None].astype(float))[0] == pytest.approx(expected, **CLOSE), name


@pytest.mark.slow
def test_equal_models_are_rarely_told_apart():
    generator, draws = np.random.default_rng(2), 200
    false = dict.fromkeys(("mean_average_precision", "subset_accuracy", "micro_f1"), 0)
    for seed in range(draws):
        record = compare_tables(*draw_pair(generator, 150), metrics=tuple(false), seed=seed, draws=200)
        for name in false:
            false[name] += record.metrics[name].verdict != "not distinguishable"
    assert sum(false.values()) > 0
    assert all(count / draws <= 0.08 for count in false.values()), false


def test_tables_that_cannot_be_compared():
    from made_tables import make_case

    table = make_label_case("random")
    with pytest.raises(DataError, match="one label, the other several"):
        compare_tables(table, make_case("random"))
    other = dataclasses.replace(table, targets=~table.targets)
    with pytest.raises(DataError, match="have another label in the second table"):
        compare_tables(table, other)
    with pytest.raises(ArgumentError, match="cannot be compared by 'accuracy'"):
        compare_tables(table, table, metrics=("accuracy",))


# ------------------------------------------------------------------------------------------------ the page


def make_images(table):
    encoded = []
    for value in range(len(table)):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 20), (value % 256, 80, 80)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    rows = {"image": encoded, "sample_index": table.sample_index.tolist()}
    features = datasets.Features({"image": datasets.Image(decode=False), "sample_index": datasets.Value("int64")})
    return datasets.Dataset.from_dict(rows, features=features)


def test_the_gallery_shows_what_was_missed_and_invented():
    table = make_label_case("random")
    gallery = build_gallery(table, make_images(table))
    worst = gallery.content["worst_mistakes"]
    assert len(worst) == 20
    assert [item["log_loss"] for item in worst] == sorted((item["log_loss"] for item in worst), reverse=True)
    for item in worst:
        row = int(np.searchsorted(table.sample_index, item["sample_index"]))
        wrong = {table.labels[k] for k in np.flatnonzero(table.targets[row] != table.answers[row])}
        assert {entry["label"] for entry in (*item["missed"], *item["invented"])} == wrong
        assert item["image"] in gallery.thumbnails
    narrow = gallery.content["least_confident_right"]
    assert narrow
    assert [item["margin"] for item in narrow] == sorted(item["margin"] for item in narrow)
    assert all(item["missed"] == item["invented"] == [] for item in narrow)


def test_the_report_is_whole_and_its_page_sound(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    names = ["<b>bold</b>", "plain", "{{ 7 * 7 }}", "long " * 20, *(f"class {index}" for index in range(4))]
    generator = np.random.default_rng(0)
    logits, targets = make_label_logits("random")
    table = make_label_table(
        logits, targets, labels=names, thresholds=np.linspace(0.3, 0.6, 8), source={"model": "outputs/m", "data": "d"}
    )
    table.metadata["camera"] = generator.choice(["a", "b"], len(table)).tolist()
    record = summarise(table, draws=100)
    record.slices = build_slices(table, ["camera"])
    record.imbalance = relate_support_to_recall(table, dict(zip(names, range(10, 18), strict=True)))
    record.goals = [judge(goal, record) for goal in parse_goals(["mean_average_precision>=0.3", "micro_f1>=0.99"])]
    target = write_report(record, tmp_path, table=table, dataset=make_images(table))
    assert {path.name for path in target.glob("*.png")} == {
        "reliability.png", "mistakes.png", "classes.png", "imbalance.png", "slices.png",
    }  # fmt: skip
    content = json.loads((target / "report.json").read_text())
    assert content["problem_type"] == "multi_label_classification"
    again = read_report(tmp_path)
    assert again.metrics == record.metrics
    assert again.multi_label == record.multi_label
    text = (target / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for _, attributes in page.tags:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in page.ids or attributes["href"] == "#main"
    assert "<b>bold" not in text
    assert "abstention" not in page.ids
    assert "Confusions" not in page.text
    for words in (
        "Mean average precision", "Hamming loss", "Missed and false-positive labels", "Thresholds", "Subset accuracy",
        "With 0.5 for every class", "Gap at the same number of labels", "Correct predictions nearest to a threshold",
        "labels per image",
    ):  # fmt: skip
        assert words in page.text, words
    for value in (record.metrics["mean_average_precision"].value, record.metrics["micro_f1"].low):
        assert f"{value:.4f}" in page.text
