"""Features of a split, without a Trainer: what they are, and what their cache depends on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from measure.trained_models import digits_arguments, find_trained_model, load_digits

from hf_imgcls.classifier.features import digest_backbone
from hf_imgcls.classifier.head import find_linear_head
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.cache import fingerprint_files
from hf_imgcls.data.features import compute_features
from hf_imgcls.data.image_transforms import EvalTransform


@pytest.mark.parametrize("family", ["vit", "convnext"])
def test_they_are_what_the_head_of_the_saved_model_is_given(family, tmp_path):
    classifier, split = load_classifier(find_trained_model(family)), load_digits().splits["test"]
    reading = Reading.from_arguments(digits_arguments())
    transform = EvalTransform(Preprocessor(classifier.processor), reading)
    first = compute_features(classifier.model, split, transform, tmp_path, batch_size=7)
    assert first.seconds > 0
    assert first.labels.tolist() == split["label"]
    np.testing.assert_allclose(first.values, classifier.features(split["image"]), atol=1e-5)
    head = find_linear_head(classifier.model)
    logits = first.values @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(logits, classifier.logits(split["image"]), atol=1e-4)

    # The key of an earlier cache is read: it must not change while the features do not.
    options = {
        "weights": digest_backbone(classifier.model, head),
        "processor": json.dumps(classifier.processor.to_dict(), sort_keys=True, default=str),
        "alpha_background": "drop",
        "intensity_range": None,
        "max_pixels": reading.max_pixels,
    }
    (path,) = tmp_path.iterdir()
    assert path.name == f"features-{fingerprint_files(split, 'features 1', options)}.npy"
    again = compute_features(classifier.model, split, transform, tmp_path)
    assert again.seconds == 0
    np.testing.assert_array_equal(again.values, first.values)
