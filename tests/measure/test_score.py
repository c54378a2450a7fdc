"""Scoring through the saved folder: every example once, labels by name, results under Trainer's names."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch.utils.data import IterableDataset
from trained_models import digits_arguments, find_trained_model, load_digits
from transformers import AutoConfig, pipeline

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.classifier.labels import align_labels
from hf_imgcls.classifier.pipeline import PipelineConsumer
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.errors import DataError, ModelError
from hf_imgcls.measure.parity import check_parity, draw_rows
from hf_imgcls.measure.results import write_results
from hf_imgcls.measure.score import score_folder
from hf_imgcls.measure.scored_answers import build_scored

NUM_EXAMPLES = 61
SPEED = {"runtime", "samples_per_second"}


@pytest.fixture(scope="module", params=["vit", "convnext"])
def folder(request):
    return find_trained_model(request.param)


@pytest.fixture(scope="module")
def vit_folder():
    return find_trained_model("vit")


def score(folder, dataset=None, **options):
    return score_folder(folder, dataset or load_digits(), digits_arguments(), **options)


def without_speed(metrics):
    return {name: value for name, value in metrics.items() if name not in SPEED}


def close_to(metrics, rel):
    """What `without_speed` of other metrics must equal: the same numbers, and undefined in the same places."""
    return {
        name: value if value is None else pytest.approx(value, rel=rel)
        for name, value in without_speed(metrics).items()
    }


def test_scores_what_a_consumer_of_the_folder_gets(folder):
    result = score(folder)
    dataset = load_digits()
    rows = dataset.splits["test"]
    answers = pipeline("image-classification", model=str(folder))(
        [decode_image(image) for image in rows["image"]], top_k=10
    )
    labels = np.array(rows["label"])
    probabilities = np.array(
        [[{item["label"]: item["score"] for item in answer}[name] for name in dataset.labels] for answer in answers]
    )
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 sums
    predictions = probabilities.argmax(axis=1)

    assert len(set(predictions)) > 5, "the model must tell classes apart, or the test shows little"
    assert 0.3 < result.metrics["accuracy"] < 1.0
    assert result.metrics["accuracy"] == accuracy_score(labels, predictions)
    assert result.metrics["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert result.metrics["log_loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), abs=1e-4)
    assert result.metrics["loss"] == result.metrics["log_loss"]
    assert result.metrics["num_examples"] == NUM_EXAMPLES
    assert result.metrics["roc_auc"] is not None
    order = np.argsort(rows["sample_index"])
    np.testing.assert_array_equal(result.examples.sample_index, np.array(rows["sample_index"])[order])
    np.testing.assert_array_equal(result.examples.label, labels[order])
    np.testing.assert_array_equal(result.examples.prediction, predictions[order])
    np.testing.assert_allclose(result.examples.probability, probabilities.max(axis=1)[order], atol=1e-5)
    assert result.notes == []


@pytest.mark.slow
def test_two_processes_score_as_one(vit_folder, tmp_path):
    # One example leaves the second process without any.
    one = {size: score(vit_folder, load_digits(size), batch_size=8) for size in (NUM_EXAMPLES, 1)}
    script = Path(__file__).with_name("trained_models.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(script), str(vit_folder), str(tmp_path)], check=True, env=environment, timeout=900)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["num_processes"] == second["num_processes"] == 2
    for size, expected in one.items():
        ours, theirs = first[str(size)], second[str(size)]
        assert without_speed(ours["metrics"]) == without_speed(theirs["metrics"])
        assert without_speed(ours["metrics"]) == close_to(expected.metrics, rel=1e-6)
        assert ours["sample_index"] == expected.examples.sample_index.tolist()
        assert len(set(ours["sample_index"])) == size
        assert ours["prediction"] == expected.examples.prediction.tolist()


def test_batches_and_workers_change_nothing(vit_folder):
    whole = score(vit_folder, batch_size=64)
    parts = score(vit_folder, batch_size=7, num_workers=2)
    assert without_speed(parts.metrics) == close_to(whole.metrics, rel=1e-6)
    np.testing.assert_array_equal(parts.examples.prediction, whole.examples.prediction)


def test_any_split(vit_folder):
    validation = score(vit_folder, split="validation")
    assert validation.split == "validation"
    assert validation.metrics["num_examples"] == len(load_digits().splits["validation"])
    # The training split is scored without training's augmentation: the numbers stay the same.
    first, second = (score(vit_folder, split="train") for _ in range(2))
    assert without_speed(first.metrics) == without_speed(second.metrics)


def test_labels_in_another_order_are_matched_by_name(vit_folder):
    dataset = load_digits()
    order = np.random.default_rng(0).permutation(10)
    labels = [dataset.labels[index] for index in order]
    new_id = np.argsort(order)
    rows = dataset.splits["test"]
    split = rows.remove_columns("label").add_column("label", new_id[np.array(rows["label"])])
    permuted = dataclasses.replace(dataset, splits={"test": split}, labels=labels)
    result, straight = score(vit_folder, permuted), score(vit_folder)
    assert without_speed(result.metrics) == close_to(straight.metrics, rel=1e-9)
    assert result.labels == labels != straight.labels
    np.testing.assert_array_equal(order[result.examples.prediction], straight.examples.prediction)
    assert "another order" in result.notes[0]


def test_a_subset_of_the_models_classes(vit_folder):
    dataset = load_digits()
    kept = [3, 1, 7]
    rows = dataset.splits["test"]
    rows = rows.filter(lambda label: label in kept, input_columns="label")
    split = rows.remove_columns("label").add_column("label", [kept.index(label) for label in rows["label"]])
    subset = dataclasses.replace(dataset, splits={"test": split}, labels=[dataset.labels[index] for index in kept])
    result, straight = score(vit_folder, subset), score(vit_folder)
    names = [straight.labels[label] for label in straight.examples.label]
    concerned = np.isin(names, subset.labels)
    # The model may still answer with its other seven classes, as it will when it is served.
    expected = (straight.examples.prediction == straight.examples.label)[concerned].mean()
    assert result.metrics["accuracy"] == expected
    assert result.labels[:3] == subset.labels
    assert sorted(result.labels) == sorted(dataset.labels)
    assert "7 classes that the dataset lacks" in result.notes[0]
    assert result.metrics["roc_auc"] is not None
    assert "7 of 10 classes" in result.remarks["roc_auc"]


def test_align_labels():
    assert align_labels(["a", "b"], ["a", "b"]) == (None, ["a", "b"], None)
    assert align_labels(["crane", "crane"], ["crane", "crane"])[0] is None
    assert align_labels(["c", "a", "b"], ["a", "b"])[:2] == ([1, 2, 0], ["a", "b", "c"])
    assert align_labels(["x", "x", "a", "b"], ["b", "a"])[:2] == ([3, 2, 0, 1], ["b", "a", "x", "x"])
    with pytest.raises(ModelError, match=r"does not know 1 of the dataset's 2 classes: 'cat'") as error:
        align_labels(["LABEL_0", "dog"], ["dog", "cat"])
    assert "'LABEL_0', 'dog'" in error.value.expected
    with pytest.raises(ModelError, match=r"the same name.*'crane'"):
        align_labels(["crane", "crane", "a"], ["a", "crane"])


def test_what_cannot_be_scored_is_an_error(vit_folder, tmp_path):
    dataset = load_digits()
    with pytest.raises(DataError, match="no test split"):
        score(vit_folder, dataclasses.replace(dataset, splits={"train": dataset.splits["train"]}))
    with pytest.raises(ModelError, match="does not know 10 of the dataset's 10 classes"):
        score(vit_folder, dataclasses.replace(dataset, labels=[f"other {name}" for name in dataset.labels]))
    with pytest.raises(ModelError, match="there is no folder"):
        score(tmp_path / "nothing")
    # A backbone without its head would be scored with a random one.
    for path in vit_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(vit_folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 2 tensors of ViTForImageClassification: classifier.bias"):
        score(tmp_path)


def test_results_files(vit_folder, tmp_path):
    result = score(vit_folder)
    (tmp_path / "train_results.json").write_text(json.dumps({"train_loss": 0.5, "epoch": 3}))
    (tmp_path / "all_results.json").write_text('{"test_roc_auc": 0.1, "train_loss')  # half of an earlier one
    content = write_results(tmp_path, result)
    assert json.loads((tmp_path / "test_results.json").read_text()) == content
    assert content["test_accuracy"] == result.metrics["accuracy"]
    assert content["test_num_examples"] == NUM_EXAMPLES
    assert {"test_macro_f1", "test_loss", "test_runtime", "test_samples_per_second"} <= content.keys()
    assert "test_not_measured" not in content
    assert json.loads((tmp_path / "all_results.json").read_text()) == {"train_loss": 0.5, "epoch": 3, **content}
    confusion = json.loads((tmp_path / "confusion_matrix.json").read_text())
    assert confusion["labels"] == load_digits().labels
    assert np.array(confusion["counts"]).sum() == NUM_EXAMPLES
    assert np.trace(confusion["counts"]) == round(content["test_accuracy"] * NUM_EXAMPLES)

    # One class only: no ROC-AUC, and the earlier number does not survive anywhere.
    dataset = load_digits()
    one_class = dataset.splits["test"].filter(lambda label: label == 4, input_columns="label")
    content = write_results(tmp_path, score(vit_folder, dataclasses.replace(dataset, splits={"test": one_class})))
    assert "test_roc_auc" not in content
    assert "one class" in content["test_not_measured"]["roc_auc"]
    merged = json.loads((tmp_path / "all_results.json").read_text())
    assert "test_roc_auc" not in merged
    assert merged["train_loss"] == 0.5

    content = write_results(tmp_path, dataclasses.replace(result, split="validation"))
    assert "eval_accuracy" in content
    assert (tmp_path / "eval_results.json").exists()
    assert json.loads((tmp_path / "confusion_matrix.json").read_text())["split"] == "test"


def test_labels_come_from_the_config_as_strings(vit_folder):
    config = AutoConfig.from_pretrained(vit_folder)
    assert [config.id2label[index] for index in range(10)] == load_digits().labels


def test_a_stream_scores_as_the_same_rows_do(vit_folder, tmp_path):
    dataset = load_digits()
    for name in ("train", "test"):
        rows = dataset.splits["test"].remove_columns("sample_index").cast_column("image", Image())
        rows.to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    scores = []
    for streaming in (True, False):
        data = DataArguments(dataset_name=str(tmp_path), streaming=streaming, cache_dir=str(tmp_path / "cache"))
        loaded = load_image_dataset(data)
        assert isinstance(loaded.splits["test"], IterableDataset) == streaming
        scores.append(score_folder(vit_folder, loaded, data, batch_size=8))
        parity = check_parity(
            PipelineConsumer(vit_folder, None, data),
            draw_rows(loaded.splits["test"]),
            build_scored(scores[-1].examples, scores[-1].labels),
        )
        assert (parity.num_examples, parity.top1_agreement) == (NUM_EXAMPLES, 1.0)
    assert without_speed(scores[0].metrics) == close_to(scores[1].metrics, rel=1e-9)
    assert without_speed(scores[0].metrics) == close_to(score(vit_folder).metrics, rel=1e-6)
    np.testing.assert_array_equal(scores[0].examples.sample_index, np.arange(NUM_EXAMPLES))
