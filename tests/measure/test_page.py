"""The page holds every number, escapes every name, asks no network for anything, and is written whole or not at all."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from planted_reports import (
    HOSTILE_NAMES,
    make_bare_record,
    make_images,
    make_record,
    make_several_labels,
    make_several_labels_record,
    make_table,
)

from hf_imgcls.errors import OutputError, UserError
from hf_imgcls.measure.report import gallery
from hf_imgcls.measure.report import write as report
from hf_imgcls.measure.report.page import clean_text, format_number, judge_report
from hf_imgcls.measure.report.sections import list_confused_pairs
from hf_imgcls.measure.report.write import read_report, write_report

VOID = {"meta", "link", "img", "br", "input"}
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


class Page(HTMLParser):
    """Tags, ids and text of a page; raises where tags are not balanced."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.ids, self.texts = [], [], [], []
        self.rows, self.tables, self.by_id = [], {}, {}
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))
        if tag == "tr":
            self.rows.append([])
            table = next((name for kind, name in self.open if kind == "table"), None)
            self.tables.setdefault(table, []).append(self.rows[-1])

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if self.open and self.open[-1][0] in ("style", "script"):
            return
        self.texts.append(text)
        if any(tag == "tr" for tag, _ in self.open):
            self.rows[-1].append(text.strip())
        for _, name in self.open:
            if name:
                self.by_id[name] = self.by_id.get(name, "") + text

    def find(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def write_page(folder, num_labels=10, **changes):
    table = make_table(num_labels, num_examples=max(600, 4 * num_labels))
    record = dataclasses.replace(make_record(table), **changes)
    dataset = make_images(table.label.tolist(), table.labels)
    train = make_images([index % num_labels for index in range(5 * num_labels)], table.labels)
    target = write_report(record, folder, table=table, dataset=dataset, train=train)
    return target, (target / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    target, text = write_page(tmp_path_factory.mktemp("run"))
    return target, text, Page(text)


def test_the_page_is_sound_and_asks_nothing_of_a_network(written):
    _, text, page = written
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:")), (tag, target)
            assert not target.startswith("#") or target == "#" or target[1:] in page.ids
        if tag == "img":
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("aria-labelledby",):
            assert attributes.get(name, "main") in page.ids
    assert len(page.find("script")) == len(page.find("style")) == len(page.find("h1")) == 1
    assert "default-src 'none'" in page.find("meta")[3]["content"]
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert page.find("html") == [{"lang": "en"}]
    assert page.find("a")[0] == {"class": "skip", "href": "#main"}


def test_names_are_escaped_and_isolated(written):
    _, text, page = written
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert "<script>alert" not in text
    assert "\x00" not in text
    for name in HOSTILE_NAMES:
        assert clean_text(name) in page.texts
    assert "{{ 7 * 7 }}" in page.text
    assert "outputs/<b>model</b>" in page.texts
    assert any("<i>" in item for item in page.texts)  # names of files and columns


def collect_numbers(content):
    """Numbers of a record that are no estimates' text; the labels' ids are not shown."""
    if isinstance(content, dict):
        skipped = ("label_id", "prediction_id", "schema_version")
        return [number for key, item in content.items() if key not in skipped for number in collect_numbers(item)]
    if isinstance(content, list):
        return [number for item in content for number in collect_numbers(item)]
    return [content] if isinstance(content, (int, float)) and not isinstance(content, bool) else []


def test_every_number_of_the_record_is_in_the_page(written):
    target, _, page = written
    shown = set(NUMBER.findall(page.text))
    content = json.loads((target / "report.json").read_text(encoding="utf-8"))
    numbers = collect_numbers({key: item for key, item in content.items() if key != "confidence_level"})
    assert len(numbers) > 500
    for number in numbers:
        forms = {format_number(number), f"{number:+.4f}", f"{number:.2g}", str(number)}
        assert forms & shown, number
    assert "95.0" in shown


def test_metrics_stand_in_a_row_with_their_interval_and_n(written):
    target, _, page = written
    record = read_report(target.parent)
    rows = [" ".join(row) for row in page.rows]
    titles = {"accuracy": "Accuracy", "ece": "ECE", "macro_f1": "Macro F1", "brier": "Brier score"}
    for name, title in titles.items():
        estimate = record.metrics[name]
        row = next(row for row in rows if row.split("  ")[0].strip().startswith(title))
        assert f"{estimate.value:.4f}" in row
        assert f"{estimate.low:.4f} to {estimate.high:.4f}" in " ".join(row.split())
        assert f"{estimate.n:,} " in row
    for name, estimates in record.per_class.items():
        text = " ".join(next(row for row in page.tables["class-table"] if clean_text(name).strip() in row))
        for estimate in estimates.values():
            assert f"{estimate.value:.4f}" in text
            assert f"n {estimate.n}" in text


def test_goals_are_judged_at_the_top(written):
    _, text, page = written
    assert text.index('id="goals"') < text.index('id="contents-title"') < text.index('id="metrics"')
    assert "Not all goals are met: of 3, 1 met, 1 not met, 1 not distinguishable." in page.by_id["goals"]
    rows = [" ".join(" ".join(row).split()) for row in page.rows]
    assert any(row.startswith("accuracy>=0.2 met") for row in rows)
    assert any(row.startswith("worst_class_recall>=0.999 not met") for row in rows)
    assert any(row.startswith("latency_p95_ms<=44.5 not distinguishable 44.2500") for row in rows)


@pytest.mark.parametrize(
    ("statuses", "kind", "expected"),
    [
        ([], "unknown", "No goals were set"),
        (["met", "met"], "met", "All 2 goals are met."),
        (["met", "not measured"], "unknown", "The data are too few to judge every goal: 1 met, 1 not measured."),
        (["not distinguishable"], "unknown", "The data are too few"),
        (["not met", "not measured"], "not-met", "Not all goals are met: of 2, 1 not met, 1 not measured."),
    ],
)
def test_verdicts(statuses, kind, expected):
    verdict = judge_report([{"status": status} for status in statuses])
    assert verdict["kind"] == kind
    assert expected in verdict["text"]


def test_what_is_missing_is_not_measured(tmp_path):
    record = make_bare_record(make_table(2))
    target = write_report(record, tmp_path)
    page = Page((target / "report.html").read_text(encoding="utf-8"))
    for section in ("metrics", "classes", "calibration", "abstention", "slices", "gallery", "explanations", "latency"):
        assert "not measured: " in page.by_id[section], section
    assert "the probabilities were not kept" in page.by_id["metrics"]
    assert "No goals were set" in page.by_id["goals"]
    assert not list(target.glob("*.png"))
    assert "nan" not in page.text.lower().split()
    assert read_report(tmp_path) == record


def test_explanations_are_shown_with_their_verdicts(tmp_path):
    target = tmp_path / "report" / "images"
    target.mkdir(parents=True)
    picture = gallery.make_thumbnail(gallery.Image.new("RGB", (224, 224), "red"))
    (target / "explanation_0_occlusion.png").write_bytes(picture)
    (tmp_path / "secret.png").write_bytes(picture)
    found = {
        "verdict": "do not trust",
        "reason": "it shows <edges>",
        "faithfulness": 0.0123,
        "num_trusted": 1,
        "num_examples": 3,
    }
    example = {"position": 0, "target_label": "<b>cat", "predicted_label": "dog", "probability": 0.625}
    overlays = {
        "occlusion": {**found, "overlay": "explanation_0_occlusion.png"},
        "grad_cam": {**found, "overlay": "../../secret.png"},
        "attention_rollout": {"verdict": "not applicable", "reason": "no attention"},
    }
    explanations = {
        "methods": {"occlusion": found, "grad_cam": {**found, "verdict": "trust"}},
        "examples": [{**example, "methods": overlays}],
        "thresholds": {"min_gain": 0.05},
    }
    _, text = write_page(tmp_path, explanations=explanations)
    page = Page(text)
    assert "it shows <edges>" in page.by_id["explanations"]
    assert "0.0123" in page.by_id["explanations"]
    assert "Attention rollout: not applicableno attention" in page.by_id["explanations"]
    shown = [item for item in page.find("img") if "of example" in item["alt"]]
    assert [item["alt"] for item in shown] == [
        "Occlusion of example 0: do not trust"
    ]  # nothing from outside the folder
    assert (target / "explanation_0_occlusion.png").exists()


@pytest.mark.slow
def test_a_thousand_classes_stay_small(tmp_path):
    table = make_table(1000, num_examples=4000)
    # Noise makes the largest files there are. Only what the gallery will show needs to exist.
    shown = re.findall(r'"sample_index": (\d+)', json.dumps(gallery.build_gallery(table).content))
    shown = sorted(set(map(int, shown)))
    dataset = make_images([0] * len(shown), table.labels, size=(400, 300)).remove_columns("sample_index")
    dataset = dataset.add_column("sample_index", shown)
    pairs = list_confused_pairs(table)[:5]
    classes = sorted({pair[key] for pair in pairs for key in ("label_id", "prediction_id")})
    train = make_images([*classes] * 4, table.labels, size=(400, 300))
    target = write_report(make_record(table), tmp_path, table=table, dataset=dataset, train=train)
    page = Page((target / "report.html").read_text(encoding="utf-8"))
    assert len(page.find("img")) == 20 + 10 + 5 * 2 * 4 + sum(min(pair["count"], 4) for pair in pairs)
    assert (target / "report.html").stat().st_size < 5e6
    assert sum("class 9" in text for text in page.texts) >= 100
    details = page.by_id["classes"]
    assert "All 1,000 classes as a table" in details
    assert page.find("input")[0]["data-for"] == "class-table"


def test_a_report_is_read_as_it_was_written(written):
    target = written[0]
    record = read_report(target.parent)
    assert record.per_class[HOSTILE_NAMES[0]]["recall"].method == "wilson"
    assert {item["image"] for item in record.gallery["worst_mistakes"]} <= {
        path.relative_to(target).as_posix() for path in target.glob("images/*.png")
    }
    record.save(target / "again.json")
    assert (target / "again.json").read_text() == (target / "report.json").read_text()
    (target / "again.json").unlink()
    assert {path.name for path in target.iterdir()} == {
        "report.json", "report.html", "images", "reliability.png", "confusion.png", "classes.png", "imbalance.png",
        "risk_coverage.png", "slices.png",
    }  # fmt: skip


def test_writing_again_leaves_nothing_of_the_earlier_report(written, tmp_path):
    _, first, _ = written
    shutil.copytree(written[0], tmp_path / "report")
    target = tmp_path / "report"
    # A record that was read again keeps its gallery and the pictures of it.
    write_report(read_report(tmp_path), tmp_path, table=make_table(10))
    assert (target / "report.html").read_text(encoding="utf-8") == first
    (target / "notes.txt").write_text("mine")
    table = make_table(10, num_examples=50)
    write_report(make_bare_record(table), tmp_path, table=table)
    assert {path.name for path in target.rglob("*")} == {
        "report.json",
        "report.html",
        "confusion.png",
        "images",
        "notes.txt",
    }
    assert (target / "notes.txt").read_text() == "mine"
    assert (target / "report.html").read_text(encoding="utf-8") != first


def test_a_report_that_cannot_be_drawn_leaves_the_earlier_one(tmp_path, monkeypatch):
    table = make_table()
    target = write_report(make_bare_record(table), tmp_path, table=table)
    before = {path: path.read_bytes() for path in target.rglob("*.*") if path.is_file()}
    monkeypatch.setattr(report, "draw_charts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(make_bare_record(table), tmp_path)
    assert {path: path.read_bytes() for path in target.rglob("*.*") if path.is_file()} == before


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    table = make_table()
    options = {"table": table, "dataset": make_images(table.label.tolist(), table.labels)}
    record = make_bare_record(table)
    return record, options, write_report(record, tmp_path_factory.mktemp("bare"), **options)


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_half_written_report_is_not_taken_for_a_whole_one(bare, tmp_path, monkeypatch, moved):
    record, options, whole = bare
    target = shutil.copytree(whole, tmp_path / "report")
    replace, done = os.replace, []

    def fail(source, destination):
        if len(done) == moved:
            raise OSError(28, "No space left on device")
        done.append(destination)
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_report(record, tmp_path, **options)
    monkeypatch.undo()
    assert len(done) == moved
    assert not (target / "report.json").exists()
    with pytest.raises(UserError, match=r"report\.json cannot be read"):
        read_report(tmp_path)
    assert not list(target.glob(".unfinished*"))
    if moved == 1:
        write_report(record, tmp_path, **options)
        assert read_report(tmp_path).num_examples == 600


def find_browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page, profile, *options):
    """Open a page in a browser without a window; returns what it printed, and its complaints."""
    command = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-sync", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def frame(text, width):
    """A page that shows another one ``width`` pixels wide: a browser's own window cannot be as narrow as a phone."""
    after = 'document.body.dataset.done = document.querySelector("iframe").contentDocument.body.dataset.probe'
    style = f"width: {width}px; height: 4000px; border: 0"
    inner = f'<iframe style="{style}" srcdoc="{html.escape(text)}"></iframe>'
    return f"<!DOCTYPE html><body style='margin: 0'>{inner}<script>onload = () => {{ {after} }}</script></body>"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A report with several labels per image: forty classes, so that there is a chart of all of them."""
    table = make_several_labels(40)
    dataset = make_images([0] * len(table), table.labels)
    target = write_report(
        make_several_labels_record(table), tmp_path_factory.mktemp("run"), table=table, dataset=dataset
    )
    text = (target / "report.html").read_text(encoding="utf-8")
    return target, text, Page(text)


@pytest.fixture(params=["written", "several"])
def shown(request):
    return request.getfixturevalue(request.param)


needs_browser = pytest.mark.skipif(find_browser() is None, reason="needs chromium")


@needs_browser
@pytest.mark.parametrize(("width", "is_dark"), [(1200, False), (390, True)])
def test_a_browser_shows_the_page_without_a_complaint(shown, tmp_path, width, is_dark):
    page, shot = tmp_path / "framed.html", tmp_path / "page.png"
    page.write_text(frame(shown[1], width), encoding="utf-8")
    options = [f"--window-size={max(width, 500)},4000", f"--screenshot={shot}"]
    options += ["--blink-settings=preferredColorScheme=0"] if is_dark else []
    _, complaints = browse(page, tmp_path / "profile", *options)
    assert complaints == []
    with gallery.Image.open(shot) as image:
        seen = image.convert("L").crop((0, 0, width, 4000))
    paper = max(seen.getcolors())[1]
    assert paper < 60 if is_dark else paper > 200
    assert max(abs(value - paper) for _, value in seen.getcolors()) > 150  # there is text that can be read


@needs_browser
def test_the_policy_stops_requests_and_foreign_scripts(shown, tmp_path):
    page = tmp_path / "page.html"
    planted = "<script>document.title = 'planted'</script><img src='https://example.com/a.png' alt='x'>"
    page.write_text(shown[1].replace("<footer>", f"{planted}<footer>"), encoding="utf-8")
    text, complaints = browse(page, tmp_path / "profile", "--dump-dom")
    assert len(complaints) == 2
    assert all("Content Security Policy" in line for line in complaints)
    assert "<title>Report" in text


PROBE = """
for (const part of document.querySelectorAll("details")) part.open = true;
const table = document.getElementById("class-table");
const at = [...table.rows[0].cells].findIndex((cell) => cell.innerText.startsWith("Recall"));
const read = () => [...table.tBodies[0].rows].filter((row) => row.offsetParent).map((row) => row.cells[at].dataset.v);
const found = {width: document.documentElement.scrollWidth, window: innerWidth, first: read(), collisions: []};
for (const chart of document.querySelectorAll(".chart svg")) {
  const texts = [...chart.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
  texts.forEach(([text, a], index) => texts.slice(index + 1).forEach(([other, b]) => {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (width > 1 && height > 0.4 * Math.min(a.height, b.height)) found.collisions.push([chart.id, text, other]);
  }));
}
const button = table.rows[0].cells[at].querySelector("button");
button.click(); found.ascending = read(); button.click(); found.descending = read();
const input = document.querySelector("input[data-for]");
input.value = "FELIS"; input.dispatchEvent(new Event("input")); found.searched = read();
found.status = document.querySelector(".tools [role=status]").innerText;
document.body.dataset.probe = JSON.stringify(found);
"""


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_tables_sort_and_search_and_nothing_scrolls_sideways_or_collides(shown, tmp_path, width):
    page = tmp_path / "page.html"
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", shown[1])
    text = text.replace("</body>", f"<script>{PROBE}</script></body>")
    page.write_text(frame(text, width), encoding="utf-8")
    text, complaints = browse(page, tmp_path / "profile", "--dump-dom", "--window-size=1300,900")
    assert complaints == []
    found = json.loads(Page(text).find("body")[0]["data-done"])
    assert found["width"] <= found["window"] == width
    assert found["collisions"] == []  # texts of a chart that cannot be read
    recalls = [str(item["recall"].value) for item in read_report(shown[0].parent).per_class.values()]
    assert [float(item) for item in found["first"]] == [float(item) for item in recalls]
    assert found["ascending"] == sorted(found["first"], key=float)
    assert found["descending"] == sorted(found["first"], key=float, reverse=True)
    assert (len(found["searched"]), found["status"]) == (1, f"1 of {len(recalls)} classes")
