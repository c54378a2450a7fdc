"""What is shown follows from the predictions alone; pictures are thumbnails of the right images."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from planted_reports import make_images, make_table

from hf_imgcls.measure.report.gallery import build_gallery, find_rows, make_thumbnail


def open_png(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


def test_worst_mistakes_and_least_confident_right_answers_are_ranked():
    table = make_table()
    content = build_gallery(table).content
    mistakes = sorted(zip(-table.log_loss, table.sample_index, ~table.correct, strict=True))
    expected = [index for _, index, is_wrong in mistakes if is_wrong][:20]
    assert [item["sample_index"] for item in content["worst_mistakes"]] == expected
    right = sorted(zip(table.confidence, table.sample_index, table.correct, strict=True))
    expected = [index for _, index, is_right in right if is_right][:10]
    assert [item["sample_index"] for item in content["least_confident_right"]] == expected
    first = content["worst_mistakes"][0]
    row = first["sample_index"] // 2
    assert first["log_loss"] == table.log_loss[row]
    assert first["confidence"] == table.confidence[row]
    assert (first["label"], first["prediction"]) == (
        table.labels[table.label[row]],
        table.labels[table.prediction[row]],
    )
    assert first["file"] == table.files[row]


def test_equal_losses_go_by_sample_index():
    table = make_table()
    table = dataclasses.replace(table, log_loss=np.ones(len(table)))
    shown = [item["sample_index"] for item in build_gallery(table).content["worst_mistakes"]]
    assert shown == table.sample_index[~table.correct][:20].tolist()


def test_flipped_labels_are_among_the_worst_mistakes():
    table = make_table(num_examples=1000)
    sure = np.flatnonzero(table.correct & (table.confidence > 0.9))[:20]  # 2 %
    label, log_loss = table.label.copy(), table.log_loss.copy()
    for row in sure:
        label[row] = table.top_classes[row, -1]
        log_loss[row] = -np.log(table.top_probabilities[row, -1])
    content = build_gallery(dataclasses.replace(table, label=label, log_loss=log_loss)).content
    found = {item["sample_index"] for item in content["worst_mistakes"]} & set((2 * sure).tolist())
    assert len(found) >= 15


def test_pairs_stand_beside_training_images_of_both_classes_by_name():
    table = make_table()
    names = table.labels[::-1]  # the training split counts its classes the other way round
    train = make_images([index % 10 for index in range(50)], names)
    content = build_gallery(table, make_images(table.label.tolist(), table.labels), train).content
    for pair in content["confused_pairs"]:
        for key, name in (("train_of_label", pair["label"]), ("train_of_prediction", pair["prediction"])):
            assert len(pair[key]) == 4
            for item in pair[key]:
                assert names[train[item["sample_index"] // 2]["label"]] == name == item["label"]
                assert item["image"] == f"images/gallery-train-{item['sample_index']:06d}.png"
        assert {(item["label"], item["prediction"]) for item in pair["mistakes"]} == {
            (pair["label"], pair["prediction"])
        }
    counts = [pair["count"] for pair in content["confused_pairs"]]
    assert len(counts) == 5
    assert counts == sorted(counts, reverse=True)


def test_thumbnails_show_the_images_themselves():
    table = make_table()
    dataset = make_images(table.label.tolist(), table.labels)
    shuffled = dataset.shuffle(seed=1)
    gallery = build_gallery(table, shuffled)
    item = gallery.content["worst_mistakes"][0]
    thumbnail = open_png(gallery.thumbnails[item["image"]])
    original = open_png(dataset[item["sample_index"] // 2]["image"]["bytes"])
    assert thumbnail.size == (156, 104)  # 13 times 12 x 8
    assert np.array_equal(np.asarray(thumbnail)[6::13, 6::13], np.asarray(original))
    again = build_gallery(table, shuffled)
    assert again == gallery


@pytest.mark.parametrize(
    ("size", "expected"),
    [((400, 300), (160, 120)), ((1, 1), (160, 160)), ((100, 50), (100, 50)), ((3, 5000), (1, 160))],
)
def test_thumbnails_fit(size, expected):
    assert open_png(make_thumbnail(Image.new("RGB", size))).size == expected


def test_an_unreadable_image_is_named_and_no_error():
    table = make_table()
    worst = build_gallery(table).content["worst_mistakes"][0]["sample_index"]
    dataset = make_images(table.label.tolist(), table.labels)
    rows = dataset.to_list()
    rows[worst // 2]["image"] = {"bytes": b"no image", "path": "broken.png"}
    broken = type(dataset).from_list(rows, features=dataset.features)
    gallery = build_gallery(table, broken)
    item = gallery.content["worst_mistakes"][0]
    assert item["image"] is None
    assert "broken.png" in item["reason"]
    assert gallery.content["worst_mistakes"][1]["image"] in gallery.thumbnails


def test_without_images_the_reason_is_said():
    gallery = build_gallery(make_table())
    assert gallery.thumbnails == {}
    assert {item["reason"] for item in gallery.content["worst_mistakes"]} == {"the images were not at hand"}
    assert all(pair["train_of_label"] == [] for pair in gallery.content["confused_pairs"])


def test_a_perfect_model_has_no_mistakes():
    table = make_table()
    content = build_gallery(dataclasses.replace(table, label=table.prediction)).content
    assert content["worst_mistakes"] == content["confused_pairs"] == []
    assert len(content["least_confident_right"]) == 10


def test_streams_are_searched_for_the_images():
    table = make_table()
    dataset = make_images(table.label.tolist(), table.labels)
    read = []

    def stream():
        for row in dataset:
            read.append(row["sample_index"])
            yield row

    found = find_rows(stream(), [4, 0])
    assert found == {0: dataset[0]["image"], 4: dataset[2]["image"]}
    assert read == [0, 2, 4]
    assert find_rows(dataset, [4, 0, 99999]) == found
