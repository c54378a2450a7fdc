"""evaluate's own evaluator takes our metrics, on a pipeline and a dataset, with labels mapped to class ids."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk
from sklearn.datasets import load_digits
from trained_models import find_trained_model
from transformers import pipeline

from hf_imgcls.measure.metrics.modules import Accuracy, ConfusionMatrix, PrecisionRecallF1

NAMES = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def digits():
    """Real digits in the shape that evaluators take: images and class ids."""
    found = load_digits()
    images = [Image.fromarray((pixels * 15).astype(np.uint8)).convert("RGB") for pixels in found.images[:32]]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
    return datasets.Dataset.from_dict({"image": images, "label": found.target[:32]}, features=features)


def test_an_evaluator_takes_our_metrics(digits):
    folder = str(find_trained_model("vit"))
    pipe = pipeline("image-classification", model=folder)
    label2id = pipe.model.config.label2id
    assert label2id == {name: number for number, name in enumerate(NAMES)}
    references = digits["label"][:]
    predictions = [label2id[answer[0]["label"]] for answer in pipe(digits["image"][:])]
    accuracy = sk.accuracy_score(references, predictions)
    assert 0.5 < accuracy <= 1

    evaluator = evaluate.evaluator("image-classification")
    options = {"data": digits, "label_mapping": label2id}
    found = evaluator.compute(pipe, metric=Accuracy(), **options)
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert found["samples_per_second"] > 0

    several = evaluate.combine([Accuracy(), PrecisionRecallF1(), ConfusionMatrix(num_labels=10)])
    found = evaluator.compute(pipe, metric=several, **options)
    np.testing.assert_array_equal(
        found["confusion_matrix"], sk.confusion_matrix(references, predictions, labels=range(10))
    )
    macro_f1 = sk.f1_score(references, predictions, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro_f1, abs=1e-12)

    # From the folder itself, and with the evaluator's own intervals.
    found = evaluator.compute(
        folder, metric=Accuracy(), strategy="bootstrap", n_resamples=50, random_state=0, **options
    )["accuracy"]
    assert found["score"] == pytest.approx(accuracy, abs=1e-12)
    low, high = found["confidence_interval"]
    assert low <= accuracy <= high
