"""Calibration: a case made by hand, the temperature, and heads that carry it."""

from __future__ import annotations

import copy
import math

import numpy as np
import peft
import pytest
import torch
from made_tables import make_case
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss
from tiny_models import TINY_CONFIGS
from trained_models import digits_arguments, find_trained_model, load_digits
from transformers import AutoConfig, AutoModelForImageClassification, ViTForImageClassification, pipeline

from hf_imgcls.classifier.head import fold_temperature
from hf_imgcls.compat.models import load_image_processor
from hf_imgcls.errors import DataError, ModelError
from hf_imgcls.measure.metrics.single import measure_adaptive_calibration_error, measure_calibration_error
from hf_imgcls.measure.score import score_folder
from hf_imgcls.measure.statistics.calibration import (
    apply_temperature,
    fit_temperature,
    measure_brier,
    measure_reliability,
    read_log_scores,
)
from hf_imgcls.records import TEMPERATURE_KEY


def test_calibration_errors_made_by_hand():
    # Ten answers of confidence 0.95, of which 8 are right; five of 0.62, of which 4 are; five of 0.58, of which 1 is.
    confidence = np.repeat([0.95, 0.62, 0.58], [10, 5, 5])
    correct = np.array([True] * 8 + [False] * 2 + [True] * 4 + [False] + [True] + [False] * 4)
    # Widths of 1/5: 0.58 lies in (0.4, 0.6], 0.62 in (0.6, 0.8], 0.95 in (0.8, 1].
    expected = 10 / 20 * abs(0.8 - 0.95) + 5 / 20 * abs(0.8 - 0.62) + 5 / 20 * abs(0.2 - 0.58)
    assert measure_calibration_error(correct, confidence, 5).value == pytest.approx(expected, abs=1e-12)
    # Two halves of ten: 0.58 and 0.62 come together, and their gaps partly cancel.
    expected = 0.5 * abs(0.5 - 0.6) + 0.5 * abs(0.8 - 0.95)
    assert measure_adaptive_calibration_error(correct, confidence, 2).value == pytest.approx(expected, abs=1e-12)
    rows = measure_reliability(correct, confidence, 5)
    assert [row["n"] for row in rows] == [0, 0, 5, 5, 10]
    assert rows[0]["accuracy"] is None
    assert (rows[2]["accuracy"], rows[2]["confidence"]) == pytest.approx((0.2, 0.58))
    assert (rows[4]["low"], rows[4]["high"]) == pytest.approx((0.8, 1.0))
    assert rows[4]["accuracy_low"] < 0.8 < rows[4]["accuracy_high"]
    assert sum(row["n"] / 20 * abs(row["accuracy"] - row["confidence"]) for row in rows[2:]) == pytest.approx(
        measure_calibration_error(correct, confidence, 5).value, abs=1e-12
    )


def test_equal_confidences_stay_in_one_bin():
    correct = np.array([True] * 30 + [False] * 10)
    assert measure_adaptive_calibration_error(correct, np.full(40, 0.9)).value == pytest.approx(0.15, abs=1e-12)


def test_a_temperature_made_by_hand():
    # The better of two classes always leads by 4, and is right 3 times in 4: sigmoid(4 / T) = 3 / 4.
    logits = np.tile([[4.0, 0.0]], (100, 1))
    labels = np.array([0] * 75 + [1] * 25)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(4 / math.log(3), rel=1e-9)
    confidence, losses = apply_temperature(logits, labels, temperature)
    np.testing.assert_allclose(confidence, 0.75, rtol=1e-9)
    assert losses.mean() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-12)
    # Right 99 times in 100 it was too modest.
    assert fit_temperature(logits / 4, np.array([0] * 99 + [1])) == pytest.approx(1 / math.log(99), rel=1e-9)


def test_a_temperature_is_the_minimum_of_the_log_loss():
    table = make_case("random")
    logits = read_log_scores(table)
    temperature = fit_temperature(logits, table.label)

    def loss(value):
        return log_loss(table.label, softmax(np.log(table.probabilities) / value, axis=1), labels=range(12))

    best = minimize_scalar(loss, bounds=(0.2, 20), method="bounded", options={"xatol": 1e-10})
    assert temperature == pytest.approx(best.x, rel=1e-5)
    assert loss(temperature) < loss(1.0) - 0.01
    # A constant per row changes nothing, and neither does the size of a chunk.
    shifted = np.log(table.probabilities) + np.arange(500)[:, None] / 10
    assert fit_temperature(shifted, table.label) == pytest.approx(temperature, rel=1e-5)


def test_log_scores_of_saturated_answers_are_finite_and_exact_for_the_label():
    table = make_case("saturated")
    logits = read_log_scores(table)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[np.arange(100), table.label], -table.log_loss, rtol=1e-6)
    with pytest.raises(DataError, match="only the 20 best scores are kept"):
        read_log_scores(make_case("many classes"))


@pytest.mark.parametrize(
    ("labels", "reason"), [(np.zeros(50, int), "nearly always the best"), (np.arange(50) % 2, "say nothing")]
)
def test_no_temperature_is_better_than_a_wrong_one(labels, reason):
    logits = np.tile([[2.0, 0.0]], (50, 1))
    with pytest.raises(DataError, match=reason):
        fit_temperature(logits, labels)


def test_brier_score():
    table = make_case("ties")
    expected = ((table.probabilities - np.eye(9)[table.label]) ** 2).sum(axis=1)
    np.testing.assert_allclose(measure_brier(table), expected, atol=1e-12)


# ------------------------------------------------------------------------------------------------ folding


def build_tiny(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **TINY_CONFIGS[name], num_labels=7)
    if hasattr(config, "image_size"):
        config.image_size = 32
    if name == "deit":  # two heads, whose logits are averaged
        config.architectures = ["DeiTForImageClassificationWithTeacher"]
    model = AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that answers differ from image to image
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(12)]


@pytest.fixture(scope="module")
def processor():
    return load_image_processor(str(find_trained_model("vit")))


@pytest.mark.parametrize("name", ["vit", "convnext", "resnet", "deit", "swin"])
def test_a_folded_temperature_reaches_a_plain_pipeline(name, images, processor, tmp_path):
    model, temperature = build_tiny(name), 2.7
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = model(pixel_values=pixel_values).logits.double().numpy()
    fold_temperature(model, temperature)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    answers = pipeline("image-classification", model=str(tmp_path), device="cpu")(images, top_k=7)
    config = AutoConfig.from_pretrained(tmp_path)
    served = np.array(
        [
            [{item["label"]: item["score"] for item in answer}[config.id2label[k]] for k in range(7)]
            for answer in answers
        ]
    )
    np.testing.assert_allclose(served, softmax(logits / temperature, axis=1), atol=1e-6)
    assert np.abs(served - softmax(logits, axis=1)).max() > 0.01
    np.testing.assert_array_equal(served.argmax(axis=1), logits.argmax(axis=1))
    assert getattr(config, TEMPERATURE_KEY) == pytest.approx(temperature)


@pytest.mark.parametrize("name", ["vit", pytest.param("convnext", marks=pytest.mark.slow)])
def test_folding_what_validation_says_leaves_accuracy_and_improves_scores(name, tmp_path):
    folder, data = find_trained_model(name), digits_arguments()
    model = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():  # a model that is much too sure of itself
        for parameter in model.classifier.parameters():
            parameter.mul_(4.0)
    loader = load_image_processor(str(folder))
    for part in ("sharp", "folded"):
        model.save_pretrained(tmp_path / part)
        loader.save_pretrained(tmp_path / part)
        score = score_folder(tmp_path / part, load_digits(), data)
        if part == "sharp":
            before = score
            # The split that these models were not trained on.
            table = score_folder(tmp_path / part, load_digits(), data, split="train").table
            temperature = fit_temperature(read_log_scores(table), table.label)
            assert temperature > 1.5
            fold_temperature(model, temperature)
            assert not model.training
    np.testing.assert_array_equal(score.table.prediction, before.table.prediction)
    assert score.metrics["accuracy"] == before.metrics["accuracy"]
    assert score.metrics["log_loss"] < before.metrics["log_loss"]
    expected = softmax(np.log(np.maximum(before.table.probabilities, 1e-45)) / temperature, axis=1)
    np.testing.assert_allclose(score.table.probabilities, expected, atol=1e-5)
    assert score.table.source["temperature"] == pytest.approx(temperature)


def test_an_adapter_is_folded_once_merged(images, processor):
    model = build_tiny("vit")
    target = ["query"] if any("query" in name for name, _ in model.named_modules()) else ["q_proj"]
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=target, modules_to_save=["classifier"], init_lora_weights=False)
    ).eval()
    with pytest.raises(ModelError, match="adapter is not merged"):
        fold_temperature(wrapped, 1.5)
    merged = wrapped.merge_and_unload().eval()
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        before = merged(pixel_values=pixel_values).logits
        fold_temperature(merged, 1.5)
        torch.testing.assert_close(merged(pixel_values=pixel_values).logits, before / 1.5)


def test_folding_twice_multiplies():
    model = build_tiny("resnet")
    fold_temperature(model, 2.0)
    fold_temperature(model, 3.0)
    assert getattr(model.config, TEMPERATURE_KEY) == pytest.approx(6.0)


class SquaredLogits(ViTForImageClassification):
    """A head whose weights are not what its logits are linear in."""

    def forward(self, pixel_values, **options):
        output = super().forward(pixel_values, **options)
        output.logits = output.logits**2
        return output


def test_what_cannot_be_folded_is_left_as_it_was():
    model = SquaredLogits(build_tiny("vit").config).train()
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"classifier.bias, classifier.weight divided by 2, its logits are off"):
        fold_temperature(model, 2.0)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not hasattr(model.config, TEMPERATURE_KEY)
    with pytest.raises(ModelError, match="not made of float32 weights"):
        fold_temperature(build_tiny("resnet").half(), 2.0)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ModelError, match="the temperature"):
            fold_temperature(model, temperature)
