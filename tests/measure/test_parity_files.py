"""A consumer is given files: what pipeline() reads otherwise is counted beside what was scored, or is an error."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file, save_file
from trained_models import digits_arguments, find_trained_model, load_digits

from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.classifier.pipeline import PipelineConsumer
from hf_imgcls.classifier.saved_reading import adopt_reading, save_reading
from hf_imgcls.errors import ModelError, ParityError
from hf_imgcls.measure.metrics.examples import MultiLabelExamples
from hf_imgcls.measure.offered import describe_agreement, describe_plain
from hf_imgcls.measure.parity import check_parity, draw_rows
from hf_imgcls.measure.score import score_folder
from hf_imgcls.measure.scored_answers import build_scored
from hf_imgcls.records import READING_KEY


class Recording(PipelineConsumer):
    """pipeline(), with a list of what it was given."""

    def answer(self, images, batch_size):
        self.given = []
        yield from super().answer((self.given.append(image) or image for image in images), batch_size)


def rewrite(change, format="PNG", folder=None):
    """The test digits as other files; ``change`` makes a picture out of uint8 ``(8, 8)``. In a folder, if given."""
    dataset = load_digits()
    images = []
    for number, row in enumerate(dataset.splits["test"]):
        file = io.BytesIO()
        change(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))).save(file, format)
        path = folder / f"{number}.file" if folder else None
        if path is not None:
            path.write_bytes(file.getvalue())
        images.append({"bytes": None if path else file.getvalue(), "path": path and str(path)})
    others = {name: dataset.splits["test"][name][:] for name in ("label", "sample_index")}
    features = dataset.splits["test"].select_columns(["image", *others]).features
    assert isinstance(features["image"], ImageFeature)
    split = Dataset.from_dict({"image": images, **others}, features=features)
    record = dataclasses.replace(dataset.record, source="photos")
    return dataclasses.replace(dataset, splits={"test": split}, record=record)


def add_alpha(digit):
    """White ink on nothing: the digit itself over black, and white all over without its alpha channel."""
    ink = np.full((8, 8, 4), 255, np.uint8)
    ink[..., 3] = digit
    return Image.fromarray(ink)


def deepen(digit):
    """12-bit values in 16 bits."""
    return Image.fromarray(digit.astype(np.uint16) * 16)


def sign(digit):
    """Signed values."""
    return Image.fromarray(digit.astype(np.int32) - 100)


def compare(dataset, data, **options):
    folder = options.pop("folder", find_trained_model("vit"))
    score = score_folder(folder, dataset, data)
    consumer = Recording(folder, None, data)
    record = check_parity(
        consumer, draw_rows(dataset.splits["test"]), build_scored(score.examples, score.labels),
        reading=load_classifier(folder, data=data).reading, are_files=dataset.are_files, **options,
    )  # fmt: skip
    return score, record, consumer.given


def check_again(folder, dataset, score):
    """Compare a score with what the folder answers now, all images read as by default."""
    consumer = PipelineConsumer(folder, None, digits_arguments())
    return check_parity(consumer, draw_rows(dataset.splits["test"]), build_scored(score.examples, score.labels))


@pytest.fixture(scope="module")
def accuracy():
    return score_folder(find_trained_model("vit"), load_digits(), digits_arguments()).metrics["accuracy"]


def test_the_consumer_is_given_the_files_themselves(tmp_path, accuracy):
    dataset = rewrite(Image.fromarray, folder=tmp_path)
    score, record, given = compare(dataset, digits_arguments())
    assert given == [row["image"]["path"] for row in dataset.splits["test"]]
    assert (record.num_files, record.read_otherwise) == (61, {})
    assert score.metrics["accuracy"] == accuracy == record.scored_value == record.plain_value
    assert describe_agreement(record, "100 %") == "100 % of 61 files"
    assert describe_plain(record) == ""

    dataset = rewrite(Image.fromarray)
    _, record, given = compare(dataset, digits_arguments())
    assert given == [row["image"]["bytes"] for row in dataset.splits["test"]]
    assert describe_agreement(record, "100 %") == "100 % of 61 files"


def test_the_built_in_sample_has_no_files():
    _, record, _ = compare(load_digits(), digits_arguments())
    assert record.num_files == 0
    assert describe_agreement(record, "100 %") == "61 of 61 arrays, given as PNG"


@pytest.mark.parametrize(
    ("num_files", "read_otherwise", "said"),
    [
        (270, {}, "100 % of 270 files"),
        (0, {}, "270 of 270 arrays, given as PNG"),
        (None, {}, "270 of 270 images"),  # of an older release, which did not count them
        (270, {"16-bit": 200, "transparent": 70}, "270 of 270 converted pictures"),
        (270, {"16-bit": 57}, "270 of 270 images, 57 of them converted"),
        (None, {"16-bit": 270}, "270 of 270 converted pictures"),
        (0, {"16-bit": 270}, "270 of 270 images, 270 of them converted, 270 of them arrays, given as PNG"),
        (260, {}, "270 of 270 images, 10 of them arrays, given as PNG"),
    ],
)
def test_a_percentage_is_said_of_files_alone(num_files, read_otherwise, said, tmp_path, capsys):
    """The same in a run's output and in its card, whatever the images were given as."""
    from publish.planted_runs import change_json, plant_run

    from hf_imgcls.measure.judge import print_parity
    from hf_imgcls.publish.card import read_records, render_card
    from hf_imgcls.records import ParityRecord

    folder = plant_run(tmp_path / "run")
    counts = {"num_examples": 270, "num_agreeing": 270, "top1_agreement": 1.0}
    change_json(folder / "parity.json", **counts, num_files=num_files, read_otherwise=read_otherwise)
    record = ParityRecord.load(folder / "parity.json")
    print_parity(record)
    assert f"{said.replace('100 %', '100.00%')}, {record.consumer}" in capsys.readouterr().out
    (row,) = [line for line in render_card(read_records(folder)).splitlines() if "Served = scored" in line]
    assert f"| {said} are predicted as scored" in row
    assert ("%" in row) is said.endswith("files")


def test_dropped_transparency_is_what_the_consumer_drops():
    score, record, given = compare(rewrite(add_alpha), digits_arguments())
    assert len(given) == 61
    assert record.read_otherwise == {}
    assert score.metrics["accuracy"] == record.scored_value == record.plain_value < 0.3
    assert describe_agreement(record, "100 %") == "100 % of 61 files"


@pytest.mark.parametrize(
    ("change", "format", "choice", "reason"),
    [
        (add_alpha, "PNG", {"alpha_background": "black"}, "transparent"),
        (deepen, "PNG", {"intensity_range": [0, 4080]}, "16-bit"),
        (deepen, "TIFF", {"intensity_range": [0, 4080]}, "16-bit"),
        (sign, "TIFF", {"intensity_range": [-100, 155]}, "signed 32-bit"),
        (lambda digit: Image.fromarray(digit / np.float32(255)), "TIFF", {}, "float"),
    ],
)
def test_files_that_are_read_otherwise_give_both_numbers(change, format, choice, reason, accuracy):
    dataset, data = rewrite(change, format), dataclasses.replace(digits_arguments(), **choice)
    score, record, given = compare(dataset, data)
    assert score.metrics["accuracy"] == record.scored_value == accuracy
    assert record.read_otherwise == {reason: 61}
    assert (record.num_files, record.top1_agreement) == (61, 1.0)
    # What somebody measures who gives pipeline() the files.
    files = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in dataset.splits["test"]]
    answers = PipelineConsumer(find_trained_model("vit"), None, data).classifier(files, top_k=1)
    names = [dataset.labels[label] for label in dataset.splits["test"]["label"]]
    plain = np.mean([answer[0]["label"] == name for answer, name in zip(answers, names, strict=True)])
    assert record.plain_value == plain < accuracy - 0.2
    assert len(given) == 2 * 61
    assert describe_plain(record) == (
        f"accuracy {plain:.4f} on the files as they are, {accuracy:.4f} as scored (61 of 61 are {reason})"
    )
    assert describe_agreement(record, "100 %") == "61 of 61 converted pictures"


def test_a_difference_without_a_reason_is_an_error():
    """The scores are those of another reading than the one that is said."""
    dataset, data = rewrite(add_alpha), digits_arguments()
    over_black = score_folder(find_trained_model("vit"), dataset, dataclasses.replace(data, alpha_background="black"))
    with pytest.raises(ParityError, match="disagrees with the scored one"):
        check_again(find_trained_model("vit"), dataset, over_black)


def test_another_probability_is_an_error_where_every_answer_is_the_same(tmp_path):
    folder = shutil.copytree(find_trained_model("vit"), tmp_path / "copy")
    score = score_folder(folder, load_digits(), digits_arguments())
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):  # as a temperature does
        tensors[name] = tensors[name] * torch.tensor(1.05)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    again = score_folder(folder, load_digits(), digits_arguments())
    assert np.array_equal(again.examples.prediction, score.examples.prediction)
    with pytest.raises(ParityError, match="disagrees with the scored one"):
        check_again(folder, load_digits(), score)


def test_an_image_with_several_labels_is_right_when_all_of_them_are():
    targets, scores = np.array([[True, False], [True, True]]), np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)
    scored = build_scored(MultiLabelExamples(np.array([3, 7]), np.zeros(2), targets, scores), ["a", "b"])
    row = scored.find(7)
    assert (scored.metric, scored.is_right(0), scored.is_right(row)) == ("subset_accuracy", True, False)
    answer = [{"label": "b", "score": 0.7}, {"label": "a", "score": 0.6}]
    assert scored.is_right(row, answer)
    assert not scored.is_right(0, answer)


# --------------------------------------------------------------------------------------------- the model's own


def test_a_model_is_scored_with_its_own_reading(tmp_path, accuracy):
    from transformers import AutoConfig, AutoModelForImageClassification

    folder = shutil.copytree(find_trained_model("vit"), tmp_path / "copy")
    dataset, data = rewrite(deepen), digits_arguments()
    assert score_folder(folder, dataset, data).metrics["accuracy"] < accuracy
    config = AutoConfig.from_pretrained(folder)
    save_reading(config, dataclasses.replace(data, intensity_range=[0, 4080]))
    config.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())[READING_KEY] == {"intensity_range": [0.0, 4080.0]}
    assert score_folder(folder, dataset, data).metrics["accuracy"] == accuracy
    # The arguments win, and the key survives a consumer's saving.
    assert score_folder(folder, dataset, dataclasses.replace(data, intensity_range=[0, 65535])).metrics["accuracy"] < 1
    AutoModelForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert adopt_reading(data, tmp_path / "saved").model_reading["intensity_range"] == [0.0, 4080.0]
    # Trained again with the default, nothing of it is left.
    save_reading(config, data)
    assert not hasattr(config, READING_KEY)


@pytest.mark.parametrize(
    "value", ["white", {"alpha_background": "purpel"}, {"intensity_range": [5, 1]}, {"intensity_range": 3}, [1]]
)
def test_a_reading_that_makes_no_sense_is_refused(tmp_path, value):
    folder = shutil.copytree(find_trained_model("vit"), tmp_path / "copy")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {READING_KEY: value}))
    with pytest.raises(ModelError, match=READING_KEY):
        adopt_reading(digits_arguments(), folder)


@pytest.mark.parametrize(
    ("change", "format", "choice"),
    [
        (add_alpha, "PNG", {"alpha_background": "#204060"}),
        (deepen, "PNG", {"intensity_range": [100, 4000]}),
        (deepen, "PNG", {}),
        (sign, "TIFF", {"intensity_range": [-100, 155]}),
        (lambda digit: Image.fromarray(digit / np.float32(128) - 1), "TIFF", {}),
    ],
)
def test_the_cards_lines_convert_a_picture_into_what_was_scored(change, format, choice, tmp_path, monkeypatch):
    from hf_imgcls.classifier.reading import Reading
    from hf_imgcls.publish.card_conversions import build_conversions
    from hf_imgcls.publish.card_records import CardRecords

    data = dataclasses.replace(digits_arguments(), **choice)
    reading = Reading.from_arguments(data)
    dataset = rewrite(change, format)
    _, parity, _ = compare(dataset, data)
    lines = build_conversions(CardRecords("x", dataset.record, parity=parity, config={READING_KEY: reading.choices}))
    monkeypatch.chdir(tmp_path)
    for row in dataset.splits["test"].select(range(5)):
        (tmp_path / "picture.png").write_bytes(row["image"]["bytes"])
        shown = []
        exec("\n".join(lines), {"classifier": shown.append})
        assert shown[0].convert("RGB").tobytes() == decode_image(row["image"], reading).tobytes()
