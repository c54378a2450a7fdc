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

from hf_imgcls.measure.metrics.modules import CatalogueMetrics

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
    found = evaluator.compute(pipe, metric=CatalogueMetrics("accuracy"), **options)
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert found["samples_per_second"] > 0

    multi_label = evaluate.combine([CatalogueMetrics("accuracy"), CatalogueMetrics("macro_f1", "balanced_accuracy")])
    found = evaluator.compute(pipe, metric=multi_label, **options)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(references, predictions), abs=1e-12)
    macro_f1 = sk.f1_score(references, predictions, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro_f1, abs=1e-12)

    # From the folder itself, and with the evaluator's own intervals.
    found = evaluator.compute(
        folder, metric=CatalogueMetrics("accuracy"), strategy="bootstrap", n_resamples=50, random_state=0, **options
    )["accuracy"]
    assert found["score"] == pytest.approx(accuracy, abs=1e-12)
    low, high = found["confidence_interval"]
    assert low <= accuracy <= high
