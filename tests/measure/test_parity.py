"""Served = scored: planted differences must be found, ties must not be called differences."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from trained_models import digits_arguments, find_trained_model, load_digits

from hf_imgcls.classifier.pipeline import PipelineConsumer
from hf_imgcls.errors import DataError, ParityError
from hf_imgcls.measure.metrics.examples import ExampleTable, MultiLabelExamples
from hf_imgcls.measure.parity import check_parity, draw_rows
from hf_imgcls.measure.score import score_folder
from hf_imgcls.measure.scored_answers import Tolerance, build_scored
from hf_imgcls.records import ParityRecord

NUM_EXAMPLES = 61


@pytest.fixture(scope="module", params=["vit", "convnext"])
def trained(request):
    folder = find_trained_model(request.param)
    return folder, score_folder(folder, load_digits(), digits_arguments())


@pytest.fixture
def scored(trained, tmp_path):
    """A copy of the folder, to be tampered with, and the score of the original."""
    folder, score = trained
    return shutil.copytree(folder, tmp_path / "copy"), score


def check(folder, score, max_samples=1000, seed=0, **options):
    consumer = PipelineConsumer(folder, None, digits_arguments())
    rows = draw_rows(load_digits().splits["test"], max_samples, seed)
    return check_parity(consumer, rows, build_scored(score.examples, score.labels), **options)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_untouched_folder_agrees(scored, tmp_path):
    folder, score = scored
    record = check(folder, score, max_samples=None)
    assert (record.num_examples, record.num_agreeing, record.num_ties) == (NUM_EXAMPLES, NUM_EXAMPLES, 0)
    assert record.top1_agreement == 1.0
    assert record.max_probability_difference < 1e-5
    assert record.consumer.startswith("pipeline of transformers")
    record.save(tmp_path / "parity.json")
    assert ParityRecord.load(tmp_path / "parity.json") == record


def test_another_mean_is_found(scored):
    folder, score = scored
    edit_json(folder / "preprocessor_config.json", image_mean=[-0.5, -0.5, -0.5])
    with pytest.raises(ParityError, match=r"disagrees with the scored one on \d+ of 61 images") as error:
        check(folder, score)
    assert "sample_index" in error.value.found
    assert "preprocessor_config.json" in error.value.fix


def test_permuted_labels_are_found_and_the_samples_named(scored):
    folder, score = scored
    labels = load_digits().labels
    swapped = {str(index): name for index, name in enumerate(labels)} | {"3": labels[8], "8": labels[3]}
    edit_json(folder / "config.json", id2label=swapped, label2id={name: int(i) for i, name in swapped.items()})
    concerned = np.isin(score.examples.prediction, [3, 8])
    assert 0 < concerned.sum() < NUM_EXAMPLES
    with pytest.raises(ParityError, match=f"on {concerned.sum()} of 61 images") as error:
        check(folder, score)
    first = score.examples.sample_index[concerned][:5]
    said = error.value.found
    assert all(re.search(rf"sample_index {index}: '\d' scored .*; served as '\d' \(", said) for index in first)
    named = error.value.found.count("sample_index")
    assert named == min(concerned.sum(), 5)
    # Scored again, through the folder as it is now, the wrong names cost accuracy, and parity holds.
    again = score_folder(folder, load_digits(), digits_arguments())
    assert again.metrics["accuracy"] < score.metrics["accuracy"]
    assert check(folder, again).top1_agreement == 1.0


def test_other_weights_are_found(scored):
    folder, score = scored
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] + torch.linspace(0, 20, 10)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParityError):
        check(folder, score)


def test_a_renamed_class_of_several_labels_is_found_and_named(scored):
    """A served answer without one of the scored names is a difference like any other."""
    folder, score = scored
    edit_json(folder / "config.json", problem_type="multi_label_classification")
    rows = load_digits().splits["test"]
    pictures = (row["image"]["bytes"] for row in rows)
    answers = list(PipelineConsumer(folder, None, digits_arguments()).answer(pictures, 32))
    by_name = [{item["label"]: item["score"] for item in answer} for answer in answers]
    scores = np.array([[answer[name] for name in score.labels] for answer in by_name], np.float32)
    indices = np.array(rows["sample_index"])
    examples = MultiLabelExamples(indices, np.zeros(len(scores)), scores >= 0.5, scores)
    tables = dataclasses.replace(score, examples=examples)
    assert check(folder, tables).num_agreeing == NUM_EXAMPLES

    names = {str(index): name for index, name in enumerate(score.labels)} | {"3": "three"}
    edit_json(folder / "config.json", id2label=names, label2id={name: int(index) for index, name in names.items()})
    with pytest.raises(ParityError, match=r"on \d+ of 61 images") as error:
        check(folder, tables)
    assert "'3' scored" in error.value.found
    assert "served 0.0000" in error.value.found


def test_ties_are_counted_apart(scored):
    folder, _ = scored
    # Two classes with equal weights: float noise decides which one comes first.
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name][8] = tensors[name][3]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tied = score_folder(folder, load_digits(), digits_arguments())
    of_three = np.isin(tied.examples.prediction, [3, 8])
    assert of_three.sum() > 0
    prediction = np.where(of_three, 8, tied.examples.prediction)
    other_choice = dataclasses.replace(tied, examples=dataclasses.replace(tied.examples, prediction=prediction))
    record = check(folder, other_choice)
    # Where the same noise lets the served model choose the other class, too, they simply agree.
    assert 0 < record.num_ties <= of_three.sum()
    assert record.top1_agreement == 1.0
    with pytest.raises(ParityError):
        check(folder, other_choice, tie_tolerance=-1.0)


def test_a_seeded_subset_is_compared(scored):
    folder, score = scored
    assert check(folder, score, max_samples=10).num_examples == 10
    assert check(folder, score, max_samples=1000).num_examples == NUM_EXAMPLES
    # Exactly one image is answered differently: half of the seeds draw it.
    prediction = score.examples.prediction.copy()
    prediction[30] = (prediction[30] + 1) % 10
    examples = dataclasses.replace(score.examples, prediction=prediction)
    wrong = dataclasses.replace(score, examples=examples)
    found = []
    for seed in range(6):
        try:
            check(folder, wrong, max_samples=30, seed=seed)
        except ParityError as error:
            found.append(f"sample_index {examples.sample_index[30]}:" in str(error))
    assert 0 < len(found) < 6
    assert all(found)


def test_images_that_were_not_scored_are_an_error(scored):
    folder, score = scored
    table = score.examples
    part = {item.name: getattr(table, item.name)[:40] for item in dataclasses.fields(table) if item.name != "scores"}
    with pytest.raises(DataError, match="an image was not scored"):
        check(folder, dataclasses.replace(score, examples=dataclasses.replace(table, **part)))


@pytest.mark.parametrize("swapped", [False, True])
def test_names_of_classes_that_are_never_the_best_are_compared_by_their_scores(swapped):
    """Where all scores are at hand, two swapped names show, though the first answer stays the same."""
    labels, scores = ["cat", "dog", "eel"], np.array([[0.6, 0.3, 0.1]])
    examples = ExampleTable(
        sample_index=np.array([7]), label=np.array([0]), prediction=np.array([0]), probability=scores[:, 0],
        log_loss=-np.log(scores[:, 0]), reference_rank=np.array([0]), scores=scores,
    )  # fmt: skip
    served = ["cat", "eel", "dog"] if swapped else labels
    answer = [{"label": name, "score": score} for name, score in zip(served, scores[0], strict=True)]
    outcome = build_scored(examples, labels).compare(0, answer, Tolerance(tie=1e-4, score=1e-2))
    assert outcome.difference == pytest.approx(0.2 if swapped else 0)
    assert (outcome.disagreement is not None) is swapped
    without = dataclasses.replace(examples, scores=None)
    assert build_scored(without, labels).compare(0, answer, Tolerance(1e-4, 1e-2)).disagreement is None
