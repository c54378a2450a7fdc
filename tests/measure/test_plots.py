"""Charts show the record's own numbers, at any number of classes and under any names."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from planted_reports import HOSTILE_NAMES, make_labels, make_record, make_table

from hf_imgcls.measure.compare import compare_tables
from hf_imgcls.measure.report import plots, row_plots
from hf_imgcls.measure.report.drawing import PAGE, PNG_DPI, PRINT, ClassNames, encode_png, encode_svg, shorten_name
from hf_imgcls.measure.report.write import draw_charts

CHARTS = {"reliability", "confusion", "classes", "imbalance", "risk_coverage", "slices"}


@pytest.fixture(scope="module", params=[2, 10, 31, 1000])
def report(request):
    table = make_table(request.param, num_examples=max(600, 4 * request.param))
    return table, make_record(table).to_json()


def read_texts(chart):
    return [text.get_text() for text in chart.figure.findobj(match=lambda item: hasattr(item, "get_text"))]


def test_every_chart_becomes_a_png_and_an_svg_without_references(report):
    table, content = report
    for_print, for_page = (draw_charts(content, table, theme) for theme in (PRINT, PAGE))
    assert set(for_print) == set(for_page) == CHARTS
    ids = []
    for name, chart in for_page.items():
        png = Image.open(io.BytesIO(encode_png(for_print[name])))
        assert png.size == tuple((for_print[name].figure.get_size_inches() * PNG_DPI).astype(int))
        assert png.convert("L").getpixel((0, 0)) == 255
        assert len(png.convert("L").getcolors()) > 2
        svg = encode_svg(chart, name)
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == chart.description
        assert re.findall(r"https?://(?!www\.w3\.org)", svg) == []
        assert re.findall(r"#0[1-7]0[1-8]0[1-9]", svg) == []  # no stand-in for a colour is left
        assert "var(--ink)" in svg
        assert not any(element.tag.endswith(("script", "style", "metadata")) for element in root.iter())
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        links = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
        assert set(links) <= set(ids)
    assert len(ids) == len(set(ids))


def test_equal_charts_are_equal_files():
    table = make_table(10)
    content = make_record(table).to_json()
    first, second = (
        {name: encode_svg(chart, name) for name, chart in draw_charts(content, table, PAGE).items()} for _ in range(2)
    )
    assert first == second


def test_reliability_shows_the_filled_bins(report):
    bins = report[1]["calibration"]["bins"]
    filled = [(item["confidence"], item["accuracy"]) for item in bins if item["n"]]
    chart = plots.draw_reliability(bins, PRINT)
    top, bottom = chart.figure.axes
    drawn = [line.get_xydata() for line in top.get_lines() if line.get_marker() == "o"]
    assert np.allclose(drawn[0], filled)
    assert bottom.patches[0].get_data().values.tolist() == [item["n"] for item in bins]


def test_a_confusion_matrix_shows_counts_or_per_cent():
    counts = np.array([[98, 2], [30, 70]])
    texts = read_texts(plots.draw_confusion_matrix(counts, ["cat", "dog"], PRINT))
    assert {"98", "2", "30", "70", "cat", "dog"} <= set(texts)
    many = np.diag(np.full(30, 199))
    many[3, 7], many[3, 8] = 50, 1
    texts = read_texts(plots.draw_confusion_matrix(many, make_labels(30), PRINT))
    assert texts.count("100") == 29
    assert texts.count("20") == 1  # 50 of 250
    assert "0" not in texts


def test_many_classes_are_not_drawn_as_a_grid(report):
    table, content = report
    texts = read_texts(draw_charts(content, table, PRINT)["confusion"])
    is_grid = any(text.startswith("Confusion matrix") for text in texts)
    assert is_grid == (len(table.labels) <= 30)
    if not is_grid:
        first = content["confused_pairs"][0]
        assert any(text.strip().startswith(f"{first['count']:,} (") for text in texts)
    # Without the table there are no counts to draw a grid from.
    texts = read_texts(draw_charts(content, None, PRINT)["confusion"])
    assert any(text.startswith("Most confused pairs") for text in texts)


def test_classes_with_the_lowest_recall_come_first(report):
    content = report[1]
    recalls = [item["recall"] for item in content["per_class"].values() if item["recall"]["value"] is not None]
    chart = row_plots.draw_classes(content["per_class"], list(content["per_class"]), PRINT)
    rows = [line.get_xydata()[0] for line in chart.figure.axes[0].get_lines() if line.get_marker() == "o"]
    expected = sorted(item["value"] for item in recalls)
    assert [x for x, _ in rows] == expected[: len(rows)]
    assert len(rows) == (len(expected) if len(expected) <= 30 else 20)
    intervals = [line.get_xdata().tolist() for line in chart.figure.axes[0].get_lines() if line.get_marker() == "None"]
    assert all([item["low"], item["high"]] in intervals for item in recalls if item["value"] < rows[-1][0])


def test_risk_coverage_marks_the_thresholds(report):
    risk_coverage = report[1]["risk_coverage"]
    axes = plots.draw_risk_coverage(risk_coverage, PRINT).figure.axes[0]
    assert np.array_equal(axes.get_lines()[0].get_xdata(), risk_coverage["coverage"])
    marked = [tuple(line.get_xydata()[0]) for line in axes.get_lines() if line.get_marker() == "D"]
    aims = [item for item in risk_coverage["threshold_for"].values() if item]
    assert marked == list(dict.fromkeys((item["coverage"], item["accuracy"]) for item in aims))


def test_slices_show_gaps_and_leave_out_what_is_too_small(report):
    slices = report[1]["slices"]
    texts = read_texts(row_plots.draw_slices(slices, PRINT))
    assert any("phone & co" in text for text in texts)
    assert not any("rare: x" in text for text in texts)  # three images


def test_comparison_shows_both_models_and_the_classes():
    table, other = make_table(40), make_table(40)
    other.prediction = np.where(np.arange(len(other)) % 4 == 0, other.label, other.prediction)
    other.source = {**other.source, "model": "outputs/better"}
    content = compare_tables(table, other, metrics=("accuracy", "log_loss"), draws=200).to_json()
    chart = row_plots.draw_comparison(content, PRINT)
    texts = read_texts(chart)
    assert any("outputs/<b>model</b>" in text and "outputs/better" in text for text in texts)
    accuracy = content["metrics"]["accuracy"]
    assert f"accuracy: {accuracy['a']:.4f}, {accuracy['b']:.4f}" in texts
    assert not any("log loss" in text for text in texts)
    assert any("20 more not shown" in text for text in texts)
    assert content["verdict"] == "better"
    assert "the second is better" in chart.description
    assert encode_png(chart).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "", "x" * 1000, "\n\n", "\u202e" * 5])
def test_names_are_one_short_line(name):
    text = shorten_name(name, 20)
    assert 0 < len(text) <= 20
    assert "\n" not in text
    assert "\u202e" not in text
    assert shorten_name(text, 20) == text


def test_both_ends_of_a_long_name_are_kept():
    assert shorten_name("n01440764 tench, Tinca tinca, number 1", 20) == "n01440764 ten…mber 1"


def test_a_png_says_the_class_id_where_its_font_lacks_a_letter():
    labels = ["dog", "猫", "cat"]
    assert [ClassNames(labels, PRINT)[name] for name in labels] == ["dog", "class id 1", "cat"]
    assert ClassNames(labels, PAGE)["猫"] == "\u2068猫\u2069"


def test_dollar_signs_are_no_mathematics():
    counts = np.array([[5, 0], [1, 4]])
    chart = plots.draw_confusion_matrix(counts, ["$x_1$", "$5"], PAGE)
    assert "$x_1$" in encode_svg(chart, "confusion")
