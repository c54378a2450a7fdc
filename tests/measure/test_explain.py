"""Explanations: right where the reason is known, not believed where there is none, and harmless to the model."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import torch
from cases import quick_first
from PIL import Image
from planted_shortcut import AREA, LABELS, build_untrained, draw_images, find_trained
from tiny_models import TINY_CONFIGS
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.classifier.head import head_parameter_names
from hf_imgcls.errors import MissingExtraError
from hf_imgcls.fit.model import build_model
from hf_imgcls.measure.explain.explain import draw_overlay, explain_examples
from hf_imgcls.measure.explain.faithfulness import (
    correlate_maps,
    draw_random_map,
    judge,
    measure_curves,
    randomize_weights,
)
from hf_imgcls.measure.explain.feature_layers import NotApplicableError, find_feature_layer, split_tokens, watch_layers
from hf_imgcls.measure.explain.heat_maps import METHODS, compute_heat_maps, compute_log_odds
from hf_imgcls.records import ReportRecord

WITHOUT_ATTENTION = ("convnext", "resnet", "mobilenet_v2")


class PixelClassifier(PreTrainedModel):
    """Two classes; the logit of the second is the mean of the left upper quarter, or of its first pixel's colours."""

    config_class = PretrainedConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.tensor(4.0))
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, pixel_values):
        second = self.scale * pixel_values[:, :, :8, :8].mean(dim=(1, 2, 3))
        return ImageClassifierOutput(logits=torch.stack([torch.zeros_like(second), second], dim=1))


@pytest.fixture
def pixel_classifier():
    return PixelClassifier(PretrainedConfig(num_labels=2)).eval()


def explain_planted(model, processor, method, number=24):
    planted = draw_images(number, seed=3)
    pixel_values = processor(planted.images, return_tensors="pt")["pixel_values"]
    return planted, compute_heat_maps(model, pixel_values, torch.from_numpy(planted.labels), method)


# --------------------------------------------------------------------------------------------- the planted shortcut


# Grad-CAM is coarse on transformers, and on a ConvNeXt, whose kernels of 7 x 7 reach over a small map: the test of its
# maps on single images sorts them.
PLANTED = [
    ("vit", "grad_cam", 2 * AREA, 0.15),
    ("vit", "attention_rollout", 6 * AREA, 0.9),
    ("vit", "occlusion", 8 * AREA, 0.9),
    ("convnext", "grad_cam", 3 * AREA, 0.4),
    ("convnext", "occlusion", 6 * AREA, 0.9),
    ("resnet", "grad_cam", 4 * AREA, 0.9),
    ("resnet", "occlusion", 8 * AREA, 0.9),
]


@pytest.mark.parametrize(("model_type", "method", "min_mass", "min_peaks"), quick_first(PLANTED, *PLANTED[:3]))
def test_methods_point_at_the_planted_patch(model_type, method, min_mass, min_peaks):
    planted, maps = explain_planted(*find_trained(model_type), method)
    assert maps.dtype == np.float32
    assert maps.shape == (24, 32, 32)
    assert maps.min() >= 0
    highest = maps.max(axis=(1, 2))
    assert set(np.unique(highest)) <= {0, 1}
    # An empty map points nowhere.
    mass = (maps * planted.masks).sum(axis=(1, 2)) / np.maximum(maps.sum(axis=(1, 2)), 1)
    peak_inside = (maps * planted.masks).max(axis=(1, 2)) == 1
    assert mass.mean() > min_mass, (mass.mean(), np.mean(peak_inside))
    assert np.mean(peak_inside) >= min_peaks, (mass.mean(), np.mean(peak_inside))


@pytest.fixture(scope="module", params=quick_first(["vit", "convnext", "resnet"], "vit"))
def explained(request, tmp_path_factory):
    """A trained model's examples, explained, with the folder of the overlays."""
    model, processor = find_trained(request.param)
    planted = draw_images(4, seed=3)
    folder = tmp_path_factory.mktemp(request.param)
    found = explain_examples(model, processor, planted.images, planted.labels.tolist(), overlay_folder=folder)
    return request.param, found, folder


def test_right_explanations_are_trusted(explained):
    model_type, found, _ = explained
    for method, summary in found["methods"].items():
        if method == "attention_rollout" and model_type != "vit":
            assert not summary["applies"]
            assert (summary["verdict"], summary["num_examples"]) == ("not applicable", 0)
            assert "no attention weights" in summary["reason"]
            continue
        if method == "grad_cam" and model_type != "resnet":
            continue  # right on some images only, see above
        assert summary["verdict"] == "trust", (method, summary)
        assert summary["num_examples"] == 4
        assert summary["faithfulness"] > summary["random_map_faithfulness"] + 0.1
        assert "what it marks matters" in summary["reason"]


def test_the_result_is_plain_data_with_overlays(explained, tmp_path):
    model_type, found, folder = explained
    record = ReportRecord(
        split="test", model="m", data="d", labels=LABELS, num_examples=4, confidence_level=0.95, metrics={},
        per_class={}, calibration={}, risk_coverage={}, explanations=found,
    )  # fmt: skip
    record.save(tmp_path / "report.json")
    assert ReportRecord.load(tmp_path / "report.json").explanations == json.loads(json.dumps(found))
    num_maps = 0
    for position, example in enumerate(found["examples"]):
        assert example["position"] == position
        assert example["target_label"] == example["predicted_label"]
        assert 0.5 < example["probability"] <= 1
        for item in example["methods"].values():
            if item["verdict"] != "not applicable":
                if item["faithfulness"] is not None:  # a Grad-CAM of a transformer may be empty
                    num_maps += 1
                    assert item["faithfulness"] == item["insertion_auc"] - item["deletion_auc"]
                assert Image.open(folder / item["overlay"]).size == (224, 224)
    assert len(list(folder.iterdir())) == 4 * (3 if model_type == "vit" else 2)
    assert num_maps >= 4 * (2 if model_type == "vit" else 1)


@pytest.mark.parametrize(
    ("model_type", "seed"),
    quick_first(
        [*((name, 0) for name in sorted(TINY_CONFIGS)), ("vit", 1), ("convnext", 1), ("resnet", 1)],
        ("vit", 0),
        ("resnet", 0),
    ),
)
def test_a_random_model_is_not_trusted(model_type, seed):
    model, processor = build_untrained(model_type, seed=seed + 10)
    planted = draw_images(2, seed=5)
    pixel_values = processor(planted.images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        targets = model(pixel_values=pixel_values).logits.argmax(dim=1).tolist()
    found = explain_examples(model, processor, planted.images, targets)
    assert {item["verdict"] for item in found["methods"].values()} <= {"do not trust", "not applicable"}
    assert found["methods"]["occlusion"]["applies"]
    assert found["examples"][0]["methods"]["occlusion"]["overlay"] is None


# --------------------------------------------------------------------------------------------- the methods


@pytest.mark.parametrize("model_type", sorted(TINY_CONFIGS))
def test_every_family_is_explained_and_left_as_it_was(model_type):
    model, _ = build_untrained(model_type)
    model.train()
    next(iter(model.children())).eval()  # a part of it may be in another mode
    next(model.parameters()).requires_grad_(False)
    implementation = model.config._attn_implementation

    def describe():
        return [
            (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        ], [(name, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()]

    before, tensors = describe(), copy.deepcopy(model.state_dict())
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    random_state, reasons = torch.get_rng_state(), {}
    for method in METHODS:
        try:
            maps = compute_heat_maps(model, images, targets, method)
        except NotApplicableError as error:
            reasons[method] = error.found
            continue
        assert maps.shape == (2, 32, 32)
        assert np.isfinite(maps).all()
        assert images.grad is None
        assert not images.requires_grad
    assert set(reasons) == ({"attention_rollout"} if model_type in (*WITHOUT_ATTENTION, "swin") else set())
    for reason in reasons.values():
        assert ("no attention weights" if model_type in WITHOUT_ATTENTION else "within windows") in reason
    assert describe() == before
    assert model.config._attn_implementation == implementation
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name])
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("model_type", "layer", "grid", "num_prefix_tokens"),
    [
        ("vit", "layernorm_before", (4, 4), 1),
        ("deit", "layernorm_before", (4, 4), 2),
        ("dinov2", "layernorm", (4, 4), 1),
        ("beit", "layernorm", (4, 4), 1),
        ("swin", "layernorm", (4, 4), 0),
        ("convnext", "stages.1", (8, 8), 0),
        ("resnet", "stages.0", (8, 8), 0),
    ],
)
def test_the_layer_is_found_by_its_shape_and_gradient(model_type, layer, grid, num_prefix_tokens):
    model, _ = build_untrained(model_type)
    found = find_layer(model)
    name = next(name for name, module in model.named_modules() if module is found.module)
    assert name.endswith(layer)
    assert (found.grid, found.num_prefix_tokens) == (grid, num_prefix_tokens)


def find_layer(model, side=32):
    pixel_values = torch.rand(1, 3, side, side, requires_grad=True)
    outputs = watch_layers(model, lambda: compute_log_odds(model, pixel_values, torch.tensor([0])))
    return find_feature_layer(outputs, (side, side))


@pytest.mark.parametrize(
    ("architecture", "layer", "has_attention"),
    [
        ("vit_tiny_patch16_224", "blocks.11.norm1", True),  # a class token
        ("vit_base_patch16_siglip_224", "norm", True),  # none, and attention pooling
        ("swin_tiny_patch4_window7_224", "norm", False),  # channels last
        ("resnet10t", "layer4", False),
    ],
)
@pytest.mark.slow
def test_timm_models_are_explained(architecture, layer, has_attention):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    fit = FitArguments(model_type="timm_wrapper", model_config={"architecture": architecture})
    model = build_model(fit, DataArguments(image_size=128), LABELS)[0].eval()
    found = find_layer(model, side=128)
    assert next(name for name, module in model.named_modules() if module is found.module) == f"timm_model.{layer}"
    images, targets = torch.rand(1, 3, 128, 128), torch.tensor([1])
    assert compute_heat_maps(model, images, targets, "grad_cam").shape == (1, 128, 128)
    if has_attention:
        assert compute_heat_maps(model, images, targets, "attention_rollout").max() == 1
    else:
        with pytest.raises(NotApplicableError, match="attention"):
            compute_heat_maps(model, images, targets, "attention_rollout")


def test_prefix_tokens_are_told_from_places():
    assert split_tokens(197, (14, 14)) == (1, (14, 14))
    assert split_tokens(14 * 14 + 5, (14, 14)) == (5, (14, 14))  # a class token and four registers
    assert split_tokens(6, (2, 2)) == (2, (2, 2))
    assert split_tokens(15 * 20, (15, 20)) == (0, (15, 20))
    assert split_tokens(8 * 10, (15, 20)) == (0, (8, 10))  # merged once, rounded up
    assert split_tokens(96, (8, 8)) is None
    assert split_tokens(1, (8, 8)) is None


def test_grad_cam_of_a_pooling_network_is_its_class_activation_map():
    """Source: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization" (arXiv:1512.04150)."""
    model, processor = find_trained("resnet")
    model = copy.deepcopy(model)
    head = model.classifier[-1]
    model.classifier[-1] = torch.nn.Linear(head.in_features, 2)
    model.classifier[-1].weight = torch.nn.Parameter(head.weight[:2].detach())
    pixel_values = processor(draw_images(3, seed=7).images, return_tensors="pt")["pixel_values"]
    maps = compute_heat_maps(model, pixel_values, torch.tensor([0, 1, 1]), "grad_cam")
    with torch.no_grad():
        features = model.resnet(pixel_values).last_hidden_state
        weight = model.classifier[-1].weight
        # Of two classes, the log-odds are the difference of the logits.
        weights = torch.stack([weight[0] - weight[1], weight[1] - weight[0], weight[1] - weight[0]])
        expected = torch.einsum("bchw,bc->bhw", features, weights)
        expected = torch.nn.functional.interpolate(expected[:, None], (32, 32), mode="bilinear")[:, 0].clamp(min=0)
    expected /= expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("model_type", ["vit", "beit"])
def test_attention_rollout_is_the_product_over_layers(model_type):
    model, _ = build_untrained(model_type)
    images = torch.rand(1, 3, 32, 32)
    found = compute_heat_maps(model, images, torch.tensor([0]), "attention_rollout")[0]
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = eager(images, output_attentions=True).attentions
    identity = np.eye(attentions[0].shape[-1])
    product = identity
    for weights in attentions:
        product = (weights[0].mean(dim=0).double().numpy() + identity) / 2 @ product
    # ViT answers from its class token, BEiT from the mean of its patches.
    row = product[0] if model_type == "vit" else product[1:].mean(axis=0)
    side = round(np.sqrt(len(row) - 1))
    expected = row[1:].reshape(side, side)
    expected = torch.from_numpy((expected - expected.min()) / np.ptp(expected))[None, None]
    expected = torch.nn.functional.interpolate(expected, (32, 32), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(found, expected / expected.max(), atol=1e-4)


def test_occlusion_marks_what_the_answer_depends_on(pixel_classifier):
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, :8, :8] = torch.tensor([1.0, -1.0])[:, None, None, None]
    speaks, against = compute_heat_maps(pixel_classifier, images, torch.tensor([1, 1]), "occlusion")
    assert speaks[:8, :8].min() > 0
    assert speaks[14:].max() == speaks[:, 14:].max() == 0
    assert against.max() == 0  # nothing here speaks for the class
    np.testing.assert_array_equal(
        compute_heat_maps(pixel_classifier, images, torch.tensor([0, 0]), "occlusion")[1], speaks
    )


@pytest.mark.parametrize(
    ("method", "reason"), [("grad_cam", "no layer of this model"), ("attention_rollout", "no attention weights")]
)
def test_a_model_that_a_method_cannot_explain_says_why(pixel_classifier, method, reason):
    with pytest.raises(NotApplicableError, match=reason):
        compute_heat_maps(pixel_classifier, torch.rand(1, 3, 32, 32), torch.tensor([0]), method)


def test_log_odds_belong_to_the_models_own_probability():
    model, _ = build_untrained("vit")
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    with torch.no_grad():
        logits = model(images).logits
        found = compute_log_odds(model, images, targets).sigmoid()
        torch.testing.assert_close(found, logits.softmax(dim=1)[[0, 1], [0, 1]])
        model.config.problem_type = "multi_label_classification"
        torch.testing.assert_close(compute_log_odds(model, images, targets), logits[[0, 1], [0, 1]])


def test_captum_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    model, processor = build_untrained("vit")
    with pytest.raises(MissingExtraError, match="captum>="):
        explain_examples(model, processor, [Image.new("RGB", (32, 32))], [0])


# --------------------------------------------------------------------------------------------- the tests of maps


def test_curves_of_a_known_model(pixel_classifier):
    """Covering the quarter that decides, in its first quarter of the order, ends all evidence at once."""
    image = torch.full((3, 16, 16), -1 / 3)
    image[:, :8, :8] = 1.0  # a mean of 0, so that a covered image says nothing
    right = np.zeros((16, 16), dtype=np.float32)
    right[:8, :8] = 1
    # 1/4 of the pixels at a time: the log-odds go 4, 3, 2, 1, 0 over 4 of 16 steps and stay 0, or the other way round.
    log_odds = np.concatenate([np.linspace(4, 0, 5), np.zeros(12)])
    deletion, insertion = measure_curves(pixel_classifier, image, 1, right, batch_size=8)
    curve = 1 / (1 + np.exp(-log_odds))
    assert deletion == pytest.approx(np.trapezoid(curve) / 16, abs=1e-6)
    assert insertion == pytest.approx(np.trapezoid(1 / (1 + np.exp(log_odds - 4))) / 16, abs=1e-6)
    reverse_deletion, reverse_insertion = measure_curves(pixel_classifier, image, 1, 1 - right, batch_size=64)
    assert reverse_deletion > deletion + 0.3
    assert reverse_insertion < insertion - 0.3


def test_curves_prefer_the_right_map_to_random_ones():
    for model_type in ("vit", "resnet"):
        model, processor = find_trained(model_type)
        planted = draw_images(8, seed=11)
        pixel_values = processor(planted.images, return_tensors="pt")["pixel_values"]
        gains = []
        for number, (image, mask) in enumerate(zip(pixel_values, planted.masks, strict=True)):
            areas = [
                measure_curves(model, image, int(planted.labels[number]), heat, batch_size=32)
                for heat in (mask.astype(np.float32), draw_random_map((32, 32), seed=number))
            ]
            gains.append([areas[1][0] - areas[0][0], areas[0][1] - areas[1][1]])
        # Covering what decides makes the answer fall earlier, uncovering it makes it rise earlier.
        of_deletion, of_insertion = np.mean(gains, axis=0)
        # A random order, too, soon uncovers some of the patch.
        assert of_deletion > 0.05, (model_type, gains)
        assert of_insertion > 0, (model_type, gains)


def test_correlation_of_maps():
    first, second = draw_random_map((224, 200), 0), draw_random_map((224, 200), 1)
    assert correlate_maps(first, first**3) == pytest.approx(1, abs=0.02)  # only the order counts
    assert correlate_maps(first, 1 - first) == pytest.approx(-1)
    assert abs(correlate_maps(first, second)) < 0.4
    assert correlate_maps(first, np.zeros_like(first)) is None
    np.testing.assert_array_equal(first, draw_random_map((224, 200), 0))


@pytest.mark.parametrize("model_type", ["vit", "convnext", "beit", "resnet"])
def test_weights_are_drawn_anew(model_type):
    model, _ = find_trained("vit") if model_type == "vit" else build_untrained(model_type)
    head = head_parameter_names(model.config)
    old = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    of_head, of_all, again = (
        randomize_weights(model, head_only=head_only, seed=5).state_dict() for head_only in (True, False, False)
    )
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, old[name])
        assert torch.equal(of_all[name], again[name])
        assert name in head or torch.equal(of_head[name], old[name])
    weights = [
        name for name, tensor in old.items() if tensor.ndim > 1 and tensor.is_floating_point() and tensor.std() > 0
    ]
    assert all(not torch.equal(of_all[name], old[name]) for name in weights)
    assert any(not torch.equal(of_head[name], old[name]) for name in head)


def test_a_model_that_knows_nothing_is_not_sure_of_itself():
    """A deep ResNet with random weights, as large as real ones in what counts here: the number of its layers."""
    depths = {"hidden_sizes": [32, 64], "depths": [16, 16], "layer_type": "bottleneck"}
    model, processor = build_untrained("resnet", **depths)
    images = processor(draw_images(8, seed=2).images, return_tensors="pt")["pixel_values"]

    def ask(images_seen):
        random_model = randomize_weights(model, head_only=False, seed=1, images=images_seen)
        assert not any(module.training for module in random_model.modules())
        with torch.no_grad():
            logits = random_model(pixel_values=images).logits
        return logits.softmax(dim=1).amax(dim=1).mean().item(), logits.std(dim=0).mean().item()

    confidence, spread = ask(None)
    settled_confidence, settled_spread = ask(images)
    assert confidence > 0.99
    assert settled_confidence < 0.9
    assert 0 < settled_spread < spread / 20


def test_every_rule_has_its_verdict():
    good = {
        "faithfulness": 0.6,
        "random_map_faithfulness": 0.1,
        "random_weights_faithfulness": 0.05,
        "random_weights_correlation": 0.1,
        "agreement": 0.6,
    }
    assert judge(good)[0] == "trust"
    verdict, reason = judge(good | {"agreement": None})
    assert verdict == "trust"
    assert "no other method" in reason
    for change, words in [
        ({"faithfulness": None}, "empty"),
        ({"random_map_faithfulness": 0.56}, "hardly matters"),
        ({"random_weights_correlation": 0.9}, "image rather than the model"),
        ({"random_weights_faithfulness": 0.4}, "learned nothing"),
        ({"agreement": 0.1}, "no other method"),
    ]:
        verdict, reason = judge(good | change)
        assert verdict == "do not trust", change
        assert words in reason


# --------------------------------------------------------------------------------------------- overlays


@pytest.mark.parametrize("size", [(32, 32), (320, 240)])
@pytest.mark.parametrize("color", ["white", "black", "tomato"])
def test_overlays_can_be_read_in_grey(size, color):
    heat = np.linspace(0, 1, size[0], dtype=np.float32)[None].repeat(size[1], axis=0)
    drawn = draw_overlay(Image.new("RGB", size, color), heat)
    assert drawn.mode == "RGB"
    assert min(drawn.size) >= 224
    assert drawn.width / drawn.height == size[0] / size[1]
    grey = np.asarray(drawn.convert("L"), dtype=float).mean(axis=0)
    width = len(grey)
    line = slice(int(width * 0.45), int(width * 0.55))
    # A black and a white line where the heat passes one half; lightness rises on both sides of it.
    assert grey[line].min() < 40
    assert grey[line].max() > 250
    cold, hot = grey[: line.start], grey[line.stop :]
    if color == "black":
        assert (np.diff(cold) > -1.5).all()
    assert (np.diff(hot) > -1.5).all()
    assert hot[-1] > cold.max()
    assert np.asarray(draw_overlay(Image.new("RGB", size, color), np.zeros_like(heat))).max() < 200
