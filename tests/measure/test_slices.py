"""Slices: every number recomputed, planted gaps found, and nothing found where nothing is."""

from __future__ import annotations

import datetime
import io
import math

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageFilter
from planted_tables import make_table
from scipy.stats import binomtest, fisher_exact, spearmanr

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.measure.report.image_statistics import STATISTICS, measure_images
from hf_imgcls.measure.report.slices import build_slices, check_columns, find_identifiers, relate_support_to_recall

NUM_LABELS = 10


def draw_table(generator, n=2000, accuracy=0.9, metadata=None):
    return make_table(generator.integers(0, NUM_LABELS, n), generator.random(n) < accuracy, metadata=metadata)


def find(slices, column, group):
    return next(item for item in slices if (item["column"], item["group"]) == (column, group))


def test_every_number_is_recomputed():
    generator = np.random.default_rng(0)
    camera = generator.choice(["a", "b", "c"], 1000, p=[0.6, 0.3, 0.1])
    table = draw_table(generator, 1000, metadata={"camera": camera.tolist()})
    slices = build_slices(table, ["camera"])
    assert {item["group"] for item in slices} == {"a", "b", "c"}
    p_values = {}
    for item in slices:
        inside = camera == item["group"]
        right, rest = table.correct[inside], table.correct[~inside]
        assert (item["n"], item["rest_n"]) == (inside.sum(), (~inside).sum())
        assert item["metric"] == "accuracy"
        assert item["value"] == pytest.approx(right.mean(), abs=1e-12)
        assert item["rest"] == pytest.approx(rest.mean(), abs=1e-12)
        assert item["gap"] == pytest.approx(right.mean() - rest.mean(), abs=1e-12)
        own, other = (
            binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson") for values in (right, rest)
        )
        assert (item["low"], item["high"]) == pytest.approx((own.low, own.high), abs=1e-9)
        reach = math.hypot(right.mean() - own.low, other.high - rest.mean())
        assert item["gap_low"] == pytest.approx(item["gap"] - reach, abs=1e-9)
        counts = [[right.sum(), (~right).sum()], [rest.sum(), (~rest).sum()]]
        tails = [fisher_exact(counts, alternative)[1] for alternative in ("less", "greater")]
        p_values[item["group"]] = item["p"]
        assert item["p"] == pytest.approx(min(1, 2 * min(tails)), abs=1e-9)
        sums = np.zeros(2)
        for k in range(NUM_LABELS):
            here, there = inside & (table.label == k), ~inside & (table.label == k)
            weight = here.sum() * there.sum() / (here.sum() + there.sum())
            sums += weight * (table.correct[here].mean() - table.correct[there].mean()), weight
        assert item["same_class_gap"] == pytest.approx(sums[0] / sums[1], abs=1e-9)
        assert item["same_class_gap_low"] < item["same_class_gap"] < item["same_class_gap_high"]
    ordered = sorted(p_values, key=p_values.get)
    assert find(slices, "camera", ordered[0])["p_adjusted"] == pytest.approx(min(1, 3 * p_values[ordered[0]]))


def test_a_planted_gap_is_found_and_ranked_first():
    num_false = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        n = 3000
        label = generator.integers(0, NUM_LABELS, n)
        place = generator.choice(["north", "south", "east", "west"], n)
        camera = generator.choice(["a", "b", "c"], n)
        planted = (place == "east") & (generator.random(n) < 0.5)
        light = np.where(planted, generator.uniform(0.0, 0.2, n), generator.uniform(0.2, 1.0, n))
        correct = generator.random(n) < np.where(planted, 0.75, 0.95)
        table = make_table(label, correct, metadata={"place": place.tolist(), "camera": camera.tolist()})
        slices = build_slices(table, ["place", "camera"], {"brightness": light, "width": np.full(n, 28.0)})
        assert "width" not in {item["column"] for item in slices}, "the same for all images"
        worst = slices[0]
        assert worst["verdict"] == "worse"
        assert (worst["column"], worst["group"]) == ("place", "east") or worst["group"].startswith("up to")
        assert {(item["column"], item["verdict"]) for item in slices} >= {("place", "worse"), ("brightness", "worse")}
        num_false += any(item["verdict"] in ("worse", "better") for item in slices if item["column"] == "camera")
        # Ranked: certain gaps first, the largest of each kind first.
        verdicts = [item["verdict"] for item in slices]
        assert verdicts == sorted(verdicts, key=["worse", "better", "not distinguishable"].index)
        gaps = [item["gap"] for item in slices if item["verdict"] == "worse"]
        assert gaps == sorted(gaps)
        gaps = [item["gap"] for item in slices if item["verdict"] == "better"]
        assert gaps == sorted(gaps, reverse=True)
        assert all(item["gap_high"] < 0 for item in slices if item["verdict"] == "worse")
        assert all(item["gap_low"] > 0 for item in slices if item["verdict"] == "better")
    assert num_false <= 3, "cameras make no difference; by chance one in twenty tables shows one"


def test_nothing_is_called_worse_where_nothing_is():
    generator, draws, false, naive = np.random.default_rng(11), 300, 0, 0
    n = 1500
    for _ in range(draws):
        metadata = {
            "place": generator.choice(["north", "south", "east", "west"], n).tolist(),
            "site": generator.integers(0, 8, n).tolist(),
        }
        light = generator.random(n)
        statistics = {"brightness": light, "contrast": light + generator.random(n), "sharpness": generator.random(n)}
        slices = build_slices(draw_table(generator, n, metadata=metadata), ["place", "site"], statistics)
        assert len(slices) == 4 + 8 + 3 * 4
        false += any(item["verdict"] in ("worse", "better") for item in slices)
        naive += any(not item["gap_low"] <= 0 <= item["gap_high"] for item in slices)
    assert false / draws <= 0.06
    assert naive / draws > 0.3, "without the adjustment there would be false verdicts: the test can fail"


def test_harder_classes_explain_a_gap():
    generator, n = np.random.default_rng(4), 6000
    label = generator.integers(0, NUM_LABELS, n)
    # Images of class 0 are hard wherever they come from, and the zoo has most of them.
    zoo = generator.random(n) < np.where(label == 0, 0.9, 0.1)
    correct = generator.random(n) < np.where(label == 0, 0.5, 0.95)
    table = make_table(label, correct, metadata={"place": np.where(zoo, "zoo", "street").tolist()})
    worst = build_slices(table, ["place"])[0]
    assert (worst["group"], worst["verdict"]) == ("zoo", "worse")
    assert worst["gap"] < -0.15
    assert worst["same_class_gap_low"] < 0 < worst["same_class_gap_high"]
    assert abs(worst["same_class_gap"]) < 0.05
    assert "its classes may be all" in worst["remark"]

    # And do not where the place itself is hard.
    correct = generator.random(n) < np.where(zoo, 0.7, 0.95)
    worst = build_slices(make_table(label, correct, metadata=table.metadata), ["place"])[0]
    assert worst["same_class_gap_high"] < -0.15
    assert worst["remark"] == ""


def test_small_groups_are_not_judged():
    n = 200
    rare = ["rare"] * 29 + ["common"] * (n - 29)
    correct = np.arange(n) >= 29  # the rare ones are all wrong
    table = make_table(np.arange(n) % NUM_LABELS, correct, metadata={"kind": rare, "same": ["x"] * n})
    slices = build_slices(table, ["kind", "same"])
    item = find(slices, "kind", "rare")
    assert item["verdict"] == find(slices, "kind", "common")["verdict"] == "too few samples"
    assert (item["value"], item["n"], item["gap"], item["p"]) == (0.0, 29, None, None)
    everyone = find(slices, "same", "x")
    assert (everyone["verdict"], everyone["rest"], everyone["n"]) == ("too few samples", None, n)
    assert find(build_slices(table, ["kind"], min_samples=29), "kind", "rare")["verdict"] == "worse"


def test_columns_that_name_single_examples_are_left_out():
    generator, n = np.random.default_rng(3), 200
    metadata = {
        "id": [f"id {i}" for i in range(n)],
        "taken": [datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=i) for i in range(n)],
        "camera": ["one" if i % 3 else "other" for i in range(n)],
        "number": list(range(n)),
    }
    table = draw_table(generator, n, metadata=metadata)
    assert {item["column"] for item in build_slices(table, list(metadata))} == {"camera", "number"}
    found = find_identifiers(table, list(metadata))
    assert list(found) == ["id", "taken"]
    assert "'id' was not used for groups: its 200 examples have 200 different values" in found["id"]


@pytest.mark.parametrize(("num_values", "is_left_out"), [(100, False), (101, True), (200, True)])
def test_what_is_said_of_a_column_that_was_left_out_is_true(num_values, is_left_out):
    n = 200
    metadata = {"place": [f"place {i % num_values}" for i in range(n)]}
    found = find_identifiers(draw_table(np.random.default_rng(3), n, metadata=metadata), ["place"])
    assert list(found) == ["place"] * is_left_out
    if is_left_out:
        assert f"200 examples have {num_values} different values, on average fewer than two examples" in found["place"]


def test_how_columns_become_groups():
    n = 400
    generator = np.random.default_rng(5)
    skewed = np.where(np.arange(n) < 380, 7.0, np.arange(n) / 1000)
    many = [f"value {i // 4 if i < 200 else i % 100}" for i in range(n)]
    metadata = {
        "number": np.arange(n).tolist(),
        "few": [i % 3 for i in range(n)],
        "flag": [i % 2 == 0 for i in range(n)],
        "holes": [None if i % 4 == 0 else float("nan") if i % 4 == 1 else "there" for i in range(n)],
        "skewed": skewed.tolist(),
        "zeros": [0.0] * 380 + np.linspace(1, 2, 20).tolist(),
        "many": many,
        "mixed": [1 if i % 2 else "one" for i in range(n)],
        "nothing": [None] * n,
    }
    table = draw_table(generator, n, metadata=metadata)
    slices = build_slices(table, list(metadata))
    sizes = {}
    for item in slices:
        sizes.setdefault(item["column"], {})[item["group"]] = item["n"]
    assert sizes["number"] == {
        "up to 99": 100,
        "above 99, up to 199": 100,
        "above 199, up to 299": 100,
        "above 299": 100,
    }
    assert sizes["few"] == {"0": 134, "1": 133, "2": 133}
    assert sizes["flag"] == {"True": 200, "False": 200}
    assert sizes["holes"] == {"there": 200, "(missing)": 200}
    assert sizes["skewed"] == {"up to 0.399": 20, "above 0.399": 380}
    assert sizes["zeros"] == {"up to 0": 380, "above 0": 20}
    assert len(sizes["many"]) == 51
    assert sizes["many"]["(50 other values)"] == 100
    assert sizes["mixed"] == {"1": 200, "one": 200}
    assert sizes["nothing"] == {"(missing)": n}
    assert all(sum(groups.values()) == n for groups in sizes.values())
    # Edges that are close together keep enough digits.
    near = build_slices(table, [], {"x": 1 + np.arange(n) / 1e6})
    assert {item["group"] for item in near} >= {"up to 1.0001", "above 1.0001, up to 1.0002"}


def test_unknown_columns():
    table = draw_table(np.random.default_rng(0), 50, metadata={"camera": ["a"] * 50})
    with pytest.raises(ArgumentError, match="'camra' to slice by; did you mean camera"):
        build_slices(table, ["camra"])
    assert check_columns(table, ["camera", "camera"]) == ["camera"]
    assert build_slices(table) == []


def encode(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **({"format": "PNG"} | options))
    return {"bytes": file.getvalue(), "path": None}


def make_split(sources, sample_index=None):
    rows = {"image": sources, "sample_index": sample_index or list(range(len(sources)))}
    return Dataset.from_dict(rows).cast_column("image", ImageFeature(decode=False))


def test_image_statistics():
    generator = np.random.default_rng(6)
    noise = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)))
    gray = np.full((30, 20, 3), 51, dtype=np.uint8)
    large = np.kron(noise[:30, :30], np.ones((20, 20, 1), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    sources = [
        encode(noise), encode(blurred), encode(gray), encode(large), encode(noise, format="JPEG", exif=exif),
        encode(gray[:2, :2]),
    ]  # fmt: skip
    shuffled = [3, 0, 5, 1, 4, 2]  # a split need not be in the order of its numbers
    split = make_split([sources[i] for i in shuffled], [10 + i for i in shuffled])
    wanted = np.array([15, 14, 10, 11, 12, 13])
    measured = measure_images(split, DataArguments(), wanted)
    assert tuple(measured) == STATISTICS
    tiny, turned, sharp, soft, even, big = range(6)
    luma = np.asarray(Image.fromarray(noise).convert("L"), dtype=np.float64)
    assert measured["brightness"][sharp] == pytest.approx(luma.mean() / 255, abs=1e-9)
    assert measured["contrast"][sharp] == pytest.approx(luma.std() / 255, abs=1e-9)
    kernel = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    assert measured["sharpness"][sharp] == pytest.approx(kernel.var(), rel=1e-6)
    assert measured["sharpness"][soft] < 0.05 * measured["sharpness"][sharp]
    assert (measured["brightness"][even], measured["contrast"][even], measured["sharpness"][even]) == (0.2, 0, 0)
    assert np.isnan(measured["sharpness"]).tolist() == [True] + [False] * 5
    assert (measured["width"][turned], measured["height"][turned]) == (40, 60)
    assert measured["aspect_ratio"][sharp] == 1.5
    assert measured["width"][big] == 600
    # Blocks of 20 pixels stay blocks when the image is scaled down: much is flat, unlike at full size nothing is lost.
    assert measured["brightness"][big] == pytest.approx(luma[:30, :30].mean() / 255, abs=0.01)
    sizes = [len(sources[i]["bytes"]) for i in (5, 4, 0, 1, 2, 3)]
    assert measured["file_bytes"].tolist() == sizes
    assert measured["width"][tiny] == 2

    with pytest.raises(DataError, match=r"1 of 2 predictions belong to no image .*\[16\]"):
        measure_images(split, DataArguments(), np.array([10, 16]))
    broken = make_split([{"bytes": b"no image", "path": None}], [3])
    with pytest.raises(DataError, match="sample_index 3"):
        measure_images(broken, DataArguments(), np.array([3]))


def test_dark_images_are_found_by_the_automatic_slices(monkeypatch):
    generator, n = np.random.default_rng(7), 600
    dark = generator.random(n) < 0.25
    sources = [encode(generator.integers(0, 60 if is_dark else 256, (12, 12, 3), dtype=np.uint8)) for is_dark in dark]
    split = make_split(sources)
    correct = generator.random(n) < np.where(dark, 0.5, 0.95)
    table = make_table(np.arange(n) % NUM_LABELS, correct)
    monkeypatch.setattr("hf_imgcls.measure.report.image_statistics.count_cores", lambda: 2)
    parallel = measure_images(split, DataArguments(), table.sample_index)
    monkeypatch.setattr("hf_imgcls.measure.report.image_statistics.count_cores", lambda: 1)
    alone = measure_images(split, DataArguments(), table.sample_index)
    for name in STATISTICS:
        np.testing.assert_array_equal(parallel[name], alone[name])
    slices = build_slices(table, [], parallel)
    found = [item for item in slices if item["verdict"] == "worse"]
    assert found[0]["group"].startswith("up to")
    assert "brightness" in {item["column"] for item in found}
    assert {item["column"] for item in slices} <= {"brightness", "contrast", "sharpness", "file_bytes"}


def test_support_against_recall():
    generator = np.random.default_rng(8)
    num_labels, n_each = 30, 200
    label = np.repeat(np.arange(num_labels), n_each)
    correct = generator.random(len(label)) < np.linspace(0.5, 0.98, num_labels)[label]
    table = make_table(label, correct, num_labels=num_labels)
    counts = {name: 10 + 7 * k for k, name in enumerate(table.labels)}
    result = relate_support_to_recall(table, counts)
    recall = [correct[label == k].mean() for k in range(num_labels)]
    assert [item["recall"] for item in result["classes"]] == pytest.approx(recall)
    assert [item["train"] for item in result["classes"]] == sorted(counts.values())
    assert result["rho"] == pytest.approx(spearmanr(list(counts.values()), recall)[0])
    assert result["rho"] > 0.9
    assert result["p"] == pytest.approx(1e-4)
    assert "permutations" in result["method"]

    assert result["effect"] is None
    assert "effect" not in result["classes"][0]
    done = relate_support_to_recall(table, counts, effect=("weight", {name: 1 / n for name, n in counts.items()}))
    assert done["effect"] == "weight"
    assert [item["effect"] for item in done["classes"]] == [1 / n for n in sorted(counts.values())]

    # Supports in any other order say nothing: p is then as uniform as it should be.
    shuffled = [
        relate_support_to_recall(table, dict(zip(table.labels, generator.permutation(num_labels), strict=True)))["p"]
        for _ in range(60)
    ]
    assert 0.3 < np.mean(shuffled) < 0.7
    balanced = relate_support_to_recall(table, dict.fromkeys(table.labels, 5))
    assert (balanced["rho"], balanced["p"]) == (None, None)
    assert "same number of training examples" in balanced["remark"]
    two = relate_support_to_recall(table, {"class 0": 3, "class 1": 4, "another": 9})
    assert len(two["classes"]) == 2
    assert "only 2 classes" in two["remark"]


def test_support_against_recall_with_many_classes():
    num_labels = 600
    generator = np.random.default_rng(9)
    label = np.repeat(np.arange(num_labels), 5)
    table = make_table(label, generator.random(len(label)) < 0.7, num_labels=num_labels)
    result = relate_support_to_recall(table, {name: k for k, name in enumerate(table.labels)})
    recall = np.bincount(label, table.correct) / 5
    assert (result["rho"], result["p"]) == pytest.approx(tuple(spearmanr(np.arange(num_labels), recall)))
    assert result["method"] == "t approximation"
