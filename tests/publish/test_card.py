"""Cards: what they say, that they say nothing else, and that names from data cannot break them."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from huggingface_hub import ModelCard
from measure.planted_reports import make_table
from publish.number_walk import find_foreign_metadata, find_foreign_numbers
from publish.planted_runs import (
    HOSTILE_NAMES,
    RECIPE,
    REVISION,
    change_json,
    make_data,
    make_model,
    make_report,
    make_run,
    plant_export,
    plant_run,
)

from hf_imgcls.digests import seal_run
from hf_imgcls.errors import CardError, UserError
from hf_imgcls.publish.card import check_card, read_records, render_card, write_card
from hf_imgcls.publish.card_records import shorten_path
from hf_imgcls.publish.lint import lint_card
from hf_imgcls.records import GroupRecord, IdenticalImages, SharedImages, write_json


def render(folder, **options) -> str:
    return render_card(read_records(folder), **options)


def read_metadata(card: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def read_section(card: str, title: str) -> str:
    """A section's text, with its sub-sections."""
    level = re.search(rf"^(#+) {re.escape(title)}$", card, re.MULTILINE)[1]
    return re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", card, re.MULTILINE | re.DOTALL)[1]


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("num_labels", [3, 10, 1000])
def test_every_number_of_a_card_is_found_in_the_records(tmp_path, num_labels):
    folder = plant_run(tmp_path / "animals", [f"animal {index:03d}" for index in range(num_labels)])
    card = render(folder)
    assert find_foreign_numbers(card, folder) == []
    assert find_foreign_metadata(read_metadata(card), folder) == []


def test_a_number_that_nobody_measured_is_noticed(tmp_path):
    folder = plant_run(tmp_path / "animals")
    card = render(folder)
    accuracy = f"{read_records(folder).metrics['accuracy'].value:.4f}"
    assert accuracy in card
    (foreign,) = find_foreign_numbers(card.replace(f"{accuracy} (", "0.9871 (", 1), folder)
    assert foreign.startswith("0.9871")


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        (("metrics", "accuracy", "low"), 0.5123, "0.5123"),
        (("metrics", "macro_f1", "high"), 0.6789, "0.6789"),
        (("per_class", "animal 004", "recall", "high"), 0.7531, "0.7531"),
        (("calibration", "temperature", "ece_after"), 0.0123, "0.0123"),
        (("latency", "pipeline", "p95_ms"), 87.6, "87.6 ms"),
        (("latency", "size_mb"), 17.3, "17.3 MB"),
        (("confidence_level",), 0.875, "87.5 %"),
    ],
)
def test_a_measured_value_reaches_the_card(tmp_path, path, value, shown):
    folder = plant_run(tmp_path / "animals")
    before = render(folder)
    report = json.loads((folder / "report" / "report.json").read_text())
    inner = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    write_json(folder / "report" / "report.json", report)
    assert shown not in before
    assert shown in render(folder)


def test_what_was_not_measured_is_said_so(tmp_path):
    folder = plant_run(tmp_path / "animals", has_report=False)
    (folder / "parity.json").unlink()
    card = render(folder)
    overview = dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", card, re.MULTILINE))
    for row in ("Weakest class", "Groups of images", "Served = scored", "Latency", "Size of the weights"):
        assert overview[row] == "not measured"
    assert "interval not measured" in overview["Accuracy"]
    assert "No report with intervals" not in card.replace("no report with intervals", "")
    assert read_section(card, "Classes").strip() == "Not measured."
    assert "Energy and emissions: not measured." in card
    assert lint_card(card, folder) == []


def test_a_run_without_any_result_says_so(tmp_path):
    folder = plant_run(tmp_path / "animals", has_report=False)
    (folder / "test_results.json").unlink()
    card = render(folder)
    assert "No evaluation results are available" in card
    assert read_section(card, "Results").strip().startswith("Not measured.")
    assert "model-index" not in read_metadata(card)
    assert lint_card(card, folder) == []


def test_a_metric_that_is_not_defined_has_its_reason(tmp_path):
    report = make_report([f"animal {index:03d}" for index in range(10)])
    report.metrics["roc_auc"] = dataclasses.replace(
        report.metrics["roc_auc"], value=None, low=None, high=None, remark="two classes have no examples"
    )
    card = render(plant_run(tmp_path / "animals", report=report))
    (row,) = [line for line in card.splitlines() if line.startswith("| ROC-AUC")]
    assert "not measured" in row
    assert "two classes have no examples" in row
    assert "roc_auc" not in str(read_metadata(card))


def test_records_that_contradict_each_other_stop_a_card(tmp_path):
    folder = plant_run(tmp_path / "animals")
    table = make_table(10, 600, labels=[f"animal {index:03d}" for index in range(10)])
    table.save(folder / "predictions_test.parquet")
    results = json.loads((folder / "test_results.json").read_text())
    write_json(folder / "all_results.json", results)
    accuracy = results["test_accuracy"]
    read_records(folder)
    change_json(folder / "test_results.json", test_accuracy=0.99)
    with pytest.raises(CardError, match="contradict each other") as caught:
        write_card(folder)
    for other in ("all_results.json", "report/report.json", "predictions_test.parquet"):
        assert f"test_accuracy is 0.99 in test_results.json and {accuracy:g} in {other}" in str(caught.value)
    # Each record is compared, also where the others agree.
    for name in ("all_results.json", "report/report.json"):
        (folder / name).unlink()
    with pytest.raises(CardError, match=r"0\.99 in test_results\.json and \S+ in predictions_test\.parquet"):
        write_card(folder)
    change_json(folder / "test_results.json", test_accuracy=accuracy, test_num_examples=599)
    with pytest.raises(CardError, match="test_num_examples is 599"):
        write_card(folder)
    assert not (folder / "README.md").exists()


def test_a_changed_folder_is_named_at_the_top_of_its_card_which_is_not_published(tmp_path):
    folder = plant_run(tmp_path / "animals")
    seal_run(folder)
    assert "Files were changed" not in render(folder)
    check_card(write_card(folder).parent)
    change_json(folder / "preprocessor_config.json", do_rescale=False)
    card = write_card(folder).read_text()
    assert "**Files were changed after the run finished:** `preprocessor_config.json` was changed" in card
    assert card.index("Files were changed") < card.index("## How to use it")
    assert "model-index" not in read_metadata(card)
    with pytest.raises(CardError, match="Since the run finished, preprocessor_config"):
        check_card(folder)


def test_results_on_other_data_are_refused(tmp_path):
    folder = plant_run(tmp_path / "animals", data=make_data([f"animal {index:03d}" for index in range(10)], config="b"))
    with pytest.raises(CardError, match="me/animals large"):
        read_records(folder)


def test_validation_results_are_called_optimistic_and_stay_out_of_the_metadata(tmp_path):
    folder = plant_run(tmp_path / "animals", has_report=False)
    results = json.loads((folder / "test_results.json").read_text())
    write_json(folder / "eval_results.json", {name.replace("test_", "eval_"): value for name, value in results.items()})
    (folder / "test_results.json").unlink()
    card = render(folder)
    assert "validation images" in card
    assert "validation are optimistic" in card
    assert "model-index" not in read_metadata(card)


# ------------------------------------------------------------------------------------------------ metadata


def test_the_metadata_says_what_the_hub_looks_for(tmp_path):
    card = render(
        plant_run(tmp_path / "animals"), hub_model_id="me/vit-animals", widget=[{"src": "https://x.org/a.png"}]
    )
    metadata = read_metadata(card)
    (entry,) = metadata.pop("model-index")
    assert metadata == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "base_model": "google/vit-base",
        "base_model_relation": "finetune",
        "datasets": ["me/animals"],
        "tags": ["image-classification", "vision", "vit", "hf_imgcls"],
        "metrics": ["accuracy", "f1", "precision", "recall", "roc_auc"],
        "widget": [{"src": "https://x.org/a.png"}],
    }
    assert entry["name"] == "vit-animals"
    (result,) = entry["results"]
    assert result["dataset"] == {
        "name": "me/animals", "type": "me/animals", "config": "large", "split": "test", "revision": REVISION,
    }  # fmt: skip
    assert result["task"] == {"type": "image-classification", "name": "Image Classification"}
    types = [(metric["type"], metric.get("args", {}).get("average")) for metric in result["metrics"]]
    assert {("accuracy", None), ("f1", "macro"), ("log_loss", None), ("ece", None), ("brier", None)} <= set(types)
    assert len(types) == len(set(types))


def test_a_split_that_was_cut_is_told_as_what_it_is(tmp_path):
    data = make_data([f"animal {index:03d}" for index in range(10)])
    cut = dataclasses.replace(data.splits["test"], source="600 of 6,000 of train", source_split="train", is_cut=True)
    data.splits["test"] = cut
    card = render(plant_run(tmp_path / "animals", data=data))
    dataset = read_metadata(card)["model-index"][0]["results"][0]["dataset"]
    assert dataset["split"] == "train"
    assert dataset["args"] == {"held_out": "600 of 6,000 of train"}
    assert "near-duplicates" in read_section(card, "Limitations")


@pytest.mark.parametrize(
    ("source", "name", "kind"),
    [
        ("digits", "scikit-learn digits", "sklearn.datasets.load_digits"),
        ("/home/jane/private/photos/train", "photos", "imagefolder"),
        ("../shared/photos/", "photos", "imagefolder"),
        ("C:\\Users\\jane\\photos", "photos", "imagefolder"),
        ("/data/birds/labels.csv", "labels.csv", "imagefolder"),
    ],
)
def test_data_that_are_not_on_the_hub_are_named_in_words_and_without_their_path(tmp_path, source, name, kind):
    labels = [f"animal {index:03d}" for index in range(10)]
    data = make_data(labels, source=source, revision=None, config=None)
    folder = plant_run(tmp_path / "animals", data=data, report=dataclasses.replace(make_report(labels), data=source))
    card = render(folder)
    metadata = read_metadata(card)
    assert "datasets" not in metadata
    dataset = metadata["model-index"][0]["results"][0]["dataset"]
    assert (dataset["name"], dataset["type"]) == (name, kind)
    assert "jane" not in card
    assert lint_card(card, folder) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [("photos", "photos"), ("/a/photos/train/", "photos"), ("/a/pets/test.csv", "pets/test.csv"), ("train", "train")],
)
def test_paths_are_shortened_to_what_tells_something(path, name):
    assert shorten_path(path) == name


def test_from_scratch_has_no_base_model_and_says_so(tmp_path):
    run = make_run(model=make_model(base_license=None), base_model=None, base_model_revision=None)
    recipe = {name: value for name, value in RECIPE.items() if name != "model_name_or_path"} | {"model_type": "vit"}
    card = render(plant_run(tmp_path / "animals", run=run, recipe=recipe))
    assert not {"base_model", "base_model_relation", "license"} & set(read_metadata(card))
    assert "trained from scratch on [me/animals]" in card
    assert "from scratch" in read_section(card, "Limitations")


def test_a_local_base_model_is_no_id(tmp_path):
    run = make_run(model=make_model(base_license=None), base_model="/home/jane/runs/first", base_model_revision=None)
    card = render(plant_run(tmp_path / "animals", run=run))
    assert "base_model" not in read_metadata(card)
    assert "the model in the folder `first`" in card
    assert "jane" not in card


@pytest.mark.parametrize(
    ("base", "recipe", "metadata", "sentence"),
    [
        ("apache-2.0", {}, {"license": "apache-2.0"}, "apache-2.0, inherited from [google/vit-base]"),
        (
            "apache-2.0",
            {"license": "mit"},
            {"license": "mit"},
            "mit, stated by the author. The card of [google/vit-base]",
        ),
        (None, {"license": "mit"}, {"license": "mit"}, "mit, stated by the author. |"),
        (None, {}, {}, "Not stated. The author states none, and neither does the base model's card"),
        ("my-own", {}, {}, "states 'my-own', which the Hub does not know"),
        (
            None,
            {"license": "other", "license_name": "house", "license_link": "https://x.org/l"},
            {"license": "other", "license_name": "house", "license_link": "https://x.org/l"},
            "house, stated by the author.",
        ),
    ],
)
def test_the_licence_is_stated_or_inherited_and_never_invented(tmp_path, base, recipe, metadata, sentence):
    folder = plant_run(
        tmp_path / "animals", run=make_run(model=make_model(base_license=base)), recipe={**RECIPE, **recipe}
    )
    card = render(folder)
    found = read_metadata(card)
    assert {key: found[key] for key in ("license", "license_name", "license_link") if key in found} == metadata
    assert sentence in card
    assert lint_card(card, folder) == []


def test_a_base_models_own_licence_is_inherited_with_its_link(tmp_path):
    model = make_model(base_license="other", base_license_name="vit-license", base_license_link="LICENSE.md")
    found = read_metadata(render(plant_run(tmp_path / "animals", run=make_run(model=model))))
    assert found["license_name"] == "vit-license"
    assert found["license_link"] == f"https://huggingface.co/google/vit-base/blob/{REVISION[::-1]}/LICENSE.md"


def test_records_of_an_older_release_still_make_a_card(tmp_path):
    folder = plant_run(tmp_path / "animals")
    run = json.loads((folder / "run.json").read_text())
    for name in ("model", "base_model", "base_model_revision"):
        del run[name]
    write_json(folder / "run.json", run)
    data = json.loads((folder / "data.json").read_text())
    for split in data["splits"].values():
        for name in ("source_split", "is_cut", "num_available"):
            del split[name]
    write_json(folder / "data.json", data)
    card = render(folder)
    assert "split" not in read_metadata(card)["model-index"][0]["results"][0]["dataset"]
    assert "from the model in the folder `vit-base`" in card
    assert lint_card(card, folder) == []


# ------------------------------------------------------------------------------------------------ smoke runs


@pytest.mark.parametrize(
    ("epoch", "steps", "reason"), [(0.25, 500, "trained for 0.2500 epochs"), (2.0, 12, "it took 12 optimizer steps")]
)
def test_a_smoke_run_says_so_at_the_top_and_its_numbers_stay_out_of_the_metadata(tmp_path, epoch, steps, reason):
    folder = plant_run(tmp_path / "animals", epoch=epoch, steps=steps)
    card = render(folder)
    head = card.split("\n---\n", 1)[1][:400]
    assert "**This is a smoke run:**" in head
    assert reason in head
    assert "model-index" not in read_metadata(card)
    assert find_foreign_numbers(card, folder) == []


def test_a_real_run_has_no_such_warning(tmp_path):
    assert "smoke" not in render(plant_run(tmp_path / "animals"))


def test_a_subset_is_named_and_a_tiny_one_makes_a_smoke_run(tmp_path):
    data = make_data([f"animal {index:03d}" for index in range(10)])
    data.splits["test"] = dataclasses.replace(data.splits["test"], num_examples=600, num_available=6_000)
    recipe = {**RECIPE, "max_test_samples": 600}
    card = render(plant_run(tmp_path / "some", data=data, recipe=recipe))
    assert "Only a part of the test split was used: 600 of 6,000 images." in card
    assert "smoke" not in card
    assert "model-index" not in read_metadata(card)  # not comparable with results on the whole split
    data.splits["train"] = dataclasses.replace(data.splits["train"], num_examples=300, num_available=50_000)
    card = render(plant_run(tmp_path / "few", data=data, recipe={**recipe, "max_train_samples": 300}))
    assert "smoke run:** it was trained on 300 of 50,000 images" in card


def test_bad_images_that_were_left_out_are_no_subset(tmp_path):
    data = make_data([f"animal {index:03d}" for index in range(10)])
    data.splits["test"] = dataclasses.replace(data.splits["test"], num_available=6_003)
    card = render(plant_run(tmp_path / "animals", data=data))
    assert "model-index" in read_metadata(card)
    assert "3 of 50,003 images of train cannot be read" in read_section(card, "Data")


# ------------------------------------------------------------------------------------------------ contents


def test_many_classes_are_shown_by_their_two_ends(tmp_path):
    labels = [f"animal {index:03d}" for index in range(300)]
    card = render(plant_run(tmp_path / "animals", labels))
    section = read_section(card, "Classes")
    rows = [line for line in section.splitlines() if line.startswith("| animal")]
    assert len(rows) == 15
    recalls = [float(re.match(r"\| \S+ \S+ \| \d+ \| ([\d.]+)", row)[1]) for row in rows]
    assert recalls == sorted(recalls)
    assert "All of them: [report/report.json](report/report.json)" in section
    assert len(card) < 25_000


def test_limitations_come_from_what_was_measured(tmp_path):
    labels = [f"animal {index:03d}" for index in range(10)]
    report = make_report(labels)
    worst = {**report.slices[0], "column": "camera", "group": "mirror", "verdict": "worse", "value": 0.31, "rest": 0.87}
    report.slices = [worst, *report.slices[1:]]
    report.calibration["confidence"] = {"gap": 0.49, "p": 1e-9, "level": 0.05, "test": "", "verdict": "over"}
    folder = plant_run(tmp_path / "animals", report=report)
    text = read_section(render(folder), "Limitations")
    assert "It performs worse on camera mirror: 0.3100 on" in text
    assert "over-confident" in text
    assert "`worst_class_recall>=0.999` was not met" in text
    weakest = min(report.per_class.items(), key=lambda item: item[1]["recall"].value)[0]
    assert f"weakest classes, by recall: {weakest}" in text
    assert "The most frequent confusions" in text
    assert "is not measured, nor is its robustness to adversarial" in text
    report.calibration["confidence"].update(verdict="not distinguishable", p=0.31)
    card = render(plant_run(tmp_path / "calibrated", report=report))
    assert "over-confident" not in card
    assert "not distinguishable from calibrated (mean score against share of right answers, p = 0.3100)" in card


def test_images_that_are_not_new_to_the_model_come_first_with_both_numbers(tmp_path):
    shared = [SharedImages("test", "base_train", 18, 6_000), SharedImages("validation", "train", 7, 5_000)]
    data = make_data(["cat", "dog"], identical_images=IdenticalImages(shared, 4))
    folder = plant_run(tmp_path / "animals", data=data)
    results = json.loads((folder / "test_results.json").read_text())
    change_json(folder / "test_results.json", test_unseen={"num_seen": 18, "num_examples": 5_982, "accuracy": 0.71234})
    card = render(folder)
    first = read_section(card, "Limitations").strip().split("\n")[0]
    assert first.startswith("- **18 of 6,000 test images trained the base model.**")
    assert f"accuracy is 0.7123 (5,982 images); with them it is {results['test_accuracy']:.4f}" in first
    about = read_section(card, "Data")
    assert "Compared by their pixels: 18 of 6,000 test images trained the base model; 7 of 5,000 validation" in about
    assert find_foreign_numbers(card, folder) == []


def test_splits_are_called_apart_only_where_that_was_looked_at(tmp_path):
    about = read_section(render(plant_run(tmp_path / "unknown")), "Data")
    assert "leaks between the splits and wrong labels: not measured" in about
    data = make_data(["cat", "dog"], identical_images=IdenticalImages(), groups=GroupRecord("animal", {"train": 9}))
    data.splits["test"].is_cut = True
    card = render(plant_run(tmp_path / "apart", data=data))
    assert "Compared by their pixels: no image is in two splits." in read_section(card, "Data")
    assert "cut in whole groups of `animal`" in read_section(card, "Limitations")


def test_settings_are_those_that_differ_from_the_defaults(tmp_path):
    section = read_section(render(plant_run(tmp_path / "animals")), "Training")
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert names == ["image_size", "learning_rate", "weight_decay"]
    assert "1,372 optimizer steps of 256 images (2 processes x 32 x 4 accumulated)" in section
    assert "84 minutes on x86\\_64 with 16 cores and NVIDIA H100" in section
    assert "step 980 were kept: the best accuracy on validation (0.8765)" in section


def test_exports_are_shown_with_parity_and_latency_and_left_out_where_there_are_none(tmp_path):
    folder = plant_run(tmp_path / "animals")
    assert "## Exports" not in render(folder)
    plant_export(folder)
    plant_export(folder, "openvino_int8", "openvino_model.xml", precision="int8")
    card = render(folder)
    section = read_section(card, "Exports")
    assert "Measured on 600 images of the test split" in section
    assert "on a processor with 2 threads" in section
    assert "| onnx (`onnx/model.onnx`) | float32 | 343.2 MB |" in section
    assert "| 599 of 600 images, probabilities within 0.00012 |" in section
    assert "| 0.8123 (0.8000 to 0.8245) | 12.3 ms / 23.5 ms | 45.7 ms |" in section
    assert "| openvino\\_int8 (`openvino_int8/openvino_model.xml`) | int8 |" in section
    assert "![" not in section
    (folder / "exports.png").write_bytes(b"png")
    card = render(folder)
    assert "](exports.png)" in read_section(card, "Exports")
    assert find_foreign_numbers(card, folder) == []
    assert lint_card(card, folder) == []


@pytest.mark.parametrize(
    ("format", "path", "alone"),
    [
        ("onnx", "model.onnx", "With ONNX Runtime alone"),
        ("onnx_folded", "model.onnx", "With ONNX Runtime alone, which gets the image as it is"),
        ("openvino", "openvino_model.xml", "With OpenVINO alone"),
    ],
)
def test_code_for_a_runtime_alone_is_shown_only_where_the_steps_before_it_are_known(tmp_path, format, path, alone):
    known, unknown = plant_run(tmp_path / "known"), plant_run(tmp_path / "unknown")
    plant_export(known, format, path)
    plant_export(unknown, format, path, preprocessing=None)
    cards = [read_section(render(folder), "Exports") for folder in (known, unknown)]
    assert [f"{alone}:" in card for card in cards] == [True, False]
    assert ['json.loads(about["preprocessing"])' in card for card in cards] == [True, False]
    assert ["By Optimum:" in card for card in cards] == [format != "onnx_folded"] * 2
    assert lint_card(render(unknown), unknown) == []


@pytest.mark.parametrize("edge", [224, 256, 32])
def test_the_cards_code_resizes_to_the_size_that_transformers_resizes_to(tmp_path, edge):
    import numpy as np
    from transformers.image_transforms import get_resize_output_image_size

    class Image:
        """Its size alone."""

        def __init__(self, size):
            self.size = size

        def resize(self, size, resample):
            return Image(tuple(size))

    folder = plant_run(tmp_path / "animals")
    steps = {"shortest_edge": edge, "resize": None, "resample": 2, "crop": None}
    plant_export(folder, preprocessing=steps)
    (shown,) = re.findall(r'^image = ImageOps.*?\n(.*?)^if steps\["crop"\]', render(folder), re.DOTALL | re.MULTILINE)
    lines, draw = compile(shown, "card", "exec"), np.random.default_rng(0)
    given, wrong = 0, []
    for short in range(1, 1201):
        for long in (short, 1200, *map(int, draw.integers(short, 1201, size=2))):
            for size in ((short, long), (long, short)):
                names = {"image": Image(size), "steps": steps}
                exec(lines, names)
                pixels = np.broadcast_to(np.uint8(0), (size[1], size[0], 3))
                height, width = get_resize_output_image_size(
                    pixels, edge, default_to_square=False, input_data_format="channels_last"
                )
                given += 1
                if names["image"].size != (width, height):
                    wrong.append((size, names["image"].size, (width, height)))
    assert given == 9600
    assert wrong == []


def test_pictures_are_named_where_they_are(tmp_path):
    folder = plant_run(tmp_path / "animals")
    assert "![" not in render(folder)
    (folder / "report" / "confusion.png").write_bytes(b"png")
    card = render(folder)
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card) == ["report/confusion.png"]
    assert lint_card(card, folder) == []


def test_what_will_not_be_published_is_not_linked(tmp_path):
    folder = plant_run(tmp_path / "animals")
    (folder / "report" / "report.html").write_text("<p>")
    assert "report/report.html" in write_card(folder).read_text()
    assert "report/report.html" not in write_card(folder, left_out=["report/report.html"]).read_text()


def test_ethics_are_told_in_words(tmp_path):
    section = read_section(render(plant_run(tmp_path / "animals")), "Ethics")
    assert "camera" in section  # a column of the data that groups were formed by
    assert section.count("not stated") == 2
    assert section.count("not measured") >= 1


# ------------------------------------------------------------------------------------------------ hostile names


class _Tables(HTMLParser):
    """Rows of cells of all tables, and every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: set[str] = set()
        self._in_cell = False

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def hostile_run(tmp_path):
    labels = HOSTILE_NAMES
    data = make_data(
        labels, source="</td>|`|\n---\na: b<script>", revision=None, config=None, notes=["bad | <b> note\n\n# heading"]
    )
    report = dataclasses.replace(make_report(labels), data=data.source)
    report.slices = [{**report.slices[0], "column": "<i>|", "group": "a|b\n|", "verdict": "worse", "remark": "<u>|"}]
    return plant_run(tmp_path / "animals", data=data, report=report)


def test_hostile_names_break_neither_metadata_nor_tables(hostile_run):
    markdown = pytest.importorskip("markdown_it")
    card = render(hostile_run, widget=[{"src": "https://x.org/a.png", "example_title": name} for name in HOSTILE_NAMES])
    assert lint_card(card, hostile_run) == []
    assert max(map(len, card.splitlines())) < 4_000
    loaded = ModelCard(card)
    assert str(ModelCard(str(loaded))) == str(loaded)
    titles = [example["example_title"] for example in read_metadata(card)["widget"]]
    assert titles[3:5] == ["---", "a: b"]
    assert titles[0] == "<script>alert(1)</script>"

    tables = _Tables()
    tables.feed(
        markdown.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(loaded.text)
    )
    assert not tables.tags & {"script", "img", "i", "u", "b", "s", "hr", "del"}
    classes = next(table for table in tables.tables if table[0][0] == "Class" and table[0][1] == "Images")
    assert {len(row) for row in classes} == {5}
    shown = [row[0] for row in classes[1:]]
    assert len(shown) == len(HOSTILE_NAMES)
    assert shown[0] == "<script>alert(1)</script>"
    assert shown[1] == "a|b || c"
    assert shown[3:5] == ["---", "a: b"]
    assert shown[5] == "x" * 59 + "…"
    assert shown[6] == "`code` ``"
    assert shown[7] == "evil name"
    assert shown[8].startswith("$$x_1$$ \\(y\\) {{ 7 * 7 }} {% raw %}")
    assert shown[10].startswith("# *bold* _it_ ~~no~~ &lt; &")
    assert "{{" not in loaded.text
    assert "$$" not in loaded.text


def test_a_hostile_model_name_stays_a_name(tmp_path):
    folder = plant_run(tmp_path / 'a"b`c {{ 1 }} <b>')
    card = render(folder)
    assert lint_card(card, folder) == []
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    compile(code, "card", "exec")


# ------------------------------------------------------------------------------------------------ notes and files


def test_the_authors_notes_are_kept_when_the_card_is_written_again(tmp_path):
    folder = plant_run(tmp_path / "animals")
    notes = tmp_path / "notes.md"
    notes.write_text("Made for the zoo.\n\n- ask before use\n", encoding="utf-8")
    card = write_card(folder, notes=notes)
    assert "## From the author" in card.read_text()
    change_json(folder / "trainer_state.json", global_step=7_777)
    write_card(folder)
    assert "Made for the zoo." in card.read_text()
    assert "7,777" in card.read_text()

    edited = card.read_text().replace("Made for the zoo.", "Made for two zoos.")
    card.write_text(edited, encoding="utf-8")
    write_card(folder)
    write_card(folder, notes=notes)  # the same file as before: what was changed by hand stays
    assert "Made for two zoos." in card.read_text()
    assert card.read_text() == edited
    notes.write_text("Made for all zoos.", encoding="utf-8")
    write_card(folder, notes=notes)
    assert "Made for all zoos." in card.read_text()
    assert "two zoos" not in card.read_text()


def test_notes_can_be_written_into_a_card_that_has_none(tmp_path):
    folder = plant_run(tmp_path / "animals")
    card = write_card(folder)
    first = card.read_text()
    hint = re.search(r"<!-- Write here.*?-->", first)[0]
    card.write_text(first.replace(hint, "Ask *Jo* of the zoo: see {{ braces }} there."), encoding="utf-8")
    write_card(folder)
    assert "Ask *Jo* of the zoo: see {{ braces }} there." in card.read_text()
    assert "## From the author" in card.read_text()
    check_card(folder)


def test_a_readme_that_somebody_wrote_is_not_lost_and_a_stock_card_is(tmp_path):
    folder = plant_run(tmp_path / "animals")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# My zoo\n\nBy hand.\n", encoding="utf-8")
    assert "# My zoo\n\nBy hand.\n<!-- author's notes: end -->" in write_card(folder).read_text()
    words = "This model card has been generated automatically according to the information the Trainer had access to."
    (folder / "README.md").write_text(f"---\n---\n<!-- {words} -->\n\n# animals\n", encoding="utf-8")
    assert words not in write_card(folder).read_text()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe", "UTF-8"), (b"---\nlicense: mit\n---\n", "metadata block"), (b"More Information Needed", "contains")],
)
def test_notes_that_cannot_stand_in_a_card_are_refused(tmp_path, content, reason):
    folder = plant_run(tmp_path / "animals")
    (tmp_path / "notes.md").write_bytes(content)
    with pytest.raises(CardError, match=reason):
        write_card(folder, notes=tmp_path / "notes.md")
    assert not (folder / "README.md").exists()


def test_writing_twice_gives_the_same_card(tmp_path):
    folder = plant_run(tmp_path / "animals")
    first = write_card(folder).read_text()
    assert write_card(folder).read_text() == first
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_adapter_has_a_card_of_its_own_in_the_place_of_pefts_form(tmp_path):
    folder = plant_run(
        tmp_path / "animals", recipe={k: v for k, v in RECIPE.items() if k != "image_size"} | {"adaptation": "lora"}
    )
    (folder / "adapter").mkdir()
    write_json(
        folder / "adapter" / "adapter_config.json",
        {"r": 8, "lora_alpha": 16.0, "target_modules": ["value", "query"], "modules_to_save": ["classifier"]},
    )
    (folder / "adapter" / "README.md").write_text("---\nbase_model: /home/me/x\n---\n[More Information Needed]")
    card = write_card(folder, hub_model_id="me/animals-vit").read_text()
    assert read_metadata(card)["base_model_relation"] == "finetune"  # merged: a whole model
    adapter = (folder / "adapter" / "README.md").read_text()
    assert read_metadata(adapter) | {"tags": None} == {
        "license": "apache-2.0", "library_name": "peft", "pipeline_tag": "image-classification",
        "base_model": "google/vit-base", "base_model_relation": "adapter", "tags": None,
    }  # fmt: skip
    assert "Rank 8, alpha 16.0, on `query` and `value`" in adapter
    assert 'PeftModel.from_pretrained(base, "me/animals-vit", subfolder="adapter")' in adapter
    check_card(folder)
    (folder / "adapter" / "README.md").write_text("---\nbase_model: /home/me/x\n---\n[More Information Needed]")
    with pytest.raises(CardError, match=r"adapter/README.md: .*base_model"):
        check_card(folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CardError, match=r"data\.json"):
        write_card(tmp_path)
    with pytest.raises(UserError, match=r"README\.md"):
        check_card(tmp_path)


def test_a_damaged_record_is_named(tmp_path):
    folder = plant_run(tmp_path / "animals")
    (folder / "trainer_state.json").write_text("{")
    with pytest.raises(UserError, match=r"trainer_state\.json"):
        write_card(folder)


def test_a_run_that_was_resumed_says_what_its_time_is_about(tmp_path):
    folder = plant_run(tmp_path / "animals", run=make_run(resumed_from=["checkpoint-40", "checkpoint-80"]))
    assert "resumed from `checkpoint-40`, `checkpoint-80`; the time is that of the last part." in render(folder)
    change_json(folder / "train_results.json", train_num_starts=3)
    assert "`checkpoint-80`; the time is that of all 3 parts together." in render(folder)
