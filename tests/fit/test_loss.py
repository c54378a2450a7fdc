"""The losses against hand-made numbers and torch's own, with one label per image and with several."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from hf_imgcls.arguments.fields import FitArguments
from hf_imgcls.errors import ArgumentError
from hf_imgcls.fit.imbalance import build_loss, compute_class_weights, describe_effect
from hf_imgcls.fit.loss import SampleLoss, choose_loss, divide_losses
from hf_imgcls.records import SplitRecord

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 4.0], [0.1, 0.2, -0.3], [30.0, -40.0, 0.0]], dtype=torch.float64)
IDS = torch.tensor([0, 2, 1, 0])
SETS = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]])


# Shares of images that were mixed.
MIXED = torch.tensor([[0.7, 0.0, 0.3], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])


def losses(name, labels, smoothing=0.0, **options):
    options.setdefault("multi_label", labels is SETS)
    return SampleLoss(name, **options)(LOGITS, labels, smoothing)


def test_the_default_is_chosen_by_the_labels():
    assert choose_loss("auto", multi_label=False).name == "cross_entropy"
    assert choose_loss("auto", multi_label=True).name == "bce"
    for name in ("bce", "focal", "asymmetric"):
        assert choose_loss(name, multi_label=True).name == choose_loss(name, multi_label=False).name == name
    with pytest.raises(ArgumentError, match="bce, focal or asymmetric"):
        choose_loss("cross_entropy", multi_label=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_torchs_of_smoothed_targets(smoothing):
    own = losses("bce", SETS, smoothing)
    expected = torch.nn.BCEWithLogitsLoss(reduction="none")(LOGITS.float(), SETS * (1 - smoothing) + smoothing / 2)
    torch.testing.assert_close(own, expected.mean(dim=1))
    # One label per image: spread over the classes, as timm does.
    one_hot = torch.full((4, 3), smoothing / 3)
    one_hot[torch.arange(4), IDS] += 1 - smoothing
    expected = F.binary_cross_entropy_with_logits(LOGITS.float(), one_hot, reduction="none").mean(dim=1)
    torch.testing.assert_close(losses("bce", IDS, smoothing), expected)


def test_binary_cross_entropy_by_hand():
    by_hand = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(-0.5))) / 3
    assert losses("bce", SETS)[0].item() == pytest.approx(by_hand, rel=1e-6)


def test_the_asymmetric_loss_by_hand():
    """Ridnik et al., equations 4 to 7, written out for one image."""
    expected = 0.0
    for logit, target in zip([2.0, -1.0, 0.5], [1, 0, 1], strict=True):
        p = 1 / (1 + math.exp(-logit))
        shifted = max(p - 0.05, 0.0)
        expected += -((1 - p) ** 1) * math.log(p) if target else -(shifted**4) * math.log(1 - shifted)
    assert losses("asymmetric", SETS)[0].item() == pytest.approx(expected / 3, rel=1e-5)
    # A negative below the margin costs nothing, and nothing overflows.
    assert losses("asymmetric", SETS)[3].item() == pytest.approx(0.5 * math.log(2) / 3, rel=1e-5)
    # Focusing with weights that have no gradient: that of the plain logarithm, times the weight.
    logits = LOGITS[:1].float().clone().requires_grad_()
    SampleLoss("asymmetric", multi_label=True)(logits, SETS[:1]).sum().backward()
    p = 1 / (1 + math.exp(-2.0))
    assert logits.grad[0, 0].item() == pytest.approx(-(1 - p) * (1 - p) / 3, rel=1e-4)


def test_cross_entropy_is_untouched():
    expected = F.cross_entropy(LOGITS.float(), IDS, reduction="none", label_smoothing=0.2)
    assert torch.equal(losses("cross_entropy", IDS, 0.2), expected)


def test_the_focal_loss_by_hand():
    p = LOGITS.softmax(dim=1)[torch.arange(4), IDS]
    torch.testing.assert_close(losses("focal", IDS), (-((1 - p) ** 2) * p.log()).float())
    torch.testing.assert_close(losses("focal", IDS, focal_gamma=0.0), losses("cross_entropy", IDS))
    # Several labels: each class is a question of its own.
    p = LOGITS[0].sigmoid()
    answered = torch.where(SETS[0] == 1, p, 1 - p)
    expected = (-((1 - answered) ** 3) * answered.log()).mean().float()
    torch.testing.assert_close(losses("focal", SETS, focal_gamma=3.0)[0], expected)
    torch.testing.assert_close(losses("focal", SETS, focal_gamma=0.0), losses("bce", SETS))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal", "asymmetric"])
def test_class_ids_are_shares_of_one_and_zero(name, smoothing):
    torch.testing.assert_close(losses(name, F.one_hot(IDS, 3).float(), smoothing), losses(name, IDS, smoothing))


def test_shares_of_mixed_images_by_torch_and_by_hand():
    expected = F.cross_entropy(LOGITS.float(), MIXED, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(losses("cross_entropy", MIXED, 0.1), expected)
    each = [losses("cross_entropy", torch.tensor([label] * 4)) for label in (0, 2)]
    torch.testing.assert_close(losses("cross_entropy", MIXED)[0], 0.7 * each[0][0] + 0.3 * each[1][0])
    # A mixture is smoothed as a distribution over the classes, a set as answers.
    for multi_label, rest in ((False, 0.1 / 3), (True, 0.1 / 2)):
        targets = MIXED * 0.9 + rest
        expected = F.binary_cross_entropy_with_logits(LOGITS.float(), targets, reduction="none").mean(dim=1)
        torch.testing.assert_close(losses("bce", MIXED, 0.1, multi_label=multi_label), expected)


WEIGHTS = torch.tensor([0.5, 1.0, 4.0])


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal", "asymmetric"])
def test_weights_multiply_the_loss_of_an_example(name):
    plain = losses(name, IDS)
    torch.testing.assert_close(losses(name, IDS, class_weights=WEIGHTS), plain * WEIGHTS[IDS])
    mixed = losses(name, MIXED, class_weights=WEIGHTS)
    torch.testing.assert_close(mixed, losses(name, MIXED) * torch.tensor([1.55, 4.0, 2.5, 0.5]))


def test_weights_are_torchs_with_one_label_and_with_several():
    expected = F.cross_entropy(LOGITS.float(), IDS, weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(losses("cross_entropy", IDS, class_weights=WEIGHTS), expected)
    expected = F.binary_cross_entropy_with_logits(LOGITS.float(), SETS, pos_weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(losses("bce", SETS, class_weights=WEIGHTS), expected.mean(dim=1))


def test_weights_of_classes_are_scikit_learns_and_those_of_the_paper():
    counts = torch.tensor([900.0, 90.0, 10.0, 0.0], dtype=torch.float64)
    ids = np.repeat(np.arange(3), [900, 90, 10])
    weights = compute_class_weights(counts, 1000)
    np.testing.assert_allclose(weights[:3], compute_class_weight("balanced", classes=np.arange(3), y=ids), rtol=1e-6)
    effective = compute_class_weights(counts, 1000, beta=0.99)
    paper = np.array([(1 - 0.99) / (1 - 0.99**count) for count in (900, 90, 10)])
    np.testing.assert_allclose(effective[:3] / effective[0], paper / paper[0], rtol=1e-6)
    for found in (weights, effective, compute_class_weights(counts, 1000, beta=0.0)):
        assert found[3] == 1
        assert (found.double() * counts).sum().item() / 1000 == pytest.approx(1)
    assert compute_class_weights(counts, 1000, beta=0.0).tolist() == [1.0] * 4
    multi_label = compute_class_weights(counts, 1000, multi_label=True)
    np.testing.assert_allclose(multi_label, [100 / 900, 910 / 90, 99.0, 1.0], rtol=1e-6)


def test_what_is_done_for_a_class_is_told():
    counts = {"rare": 10, "frequent": 90}

    def tell(**recipe):
        return describe_effect(recipe, counts, 100, multi_label=False)

    what, weights = tell(imbalance="weights")
    assert "weight" in what
    assert weights == pytest.approx({"rare": 5.0, "frequent": 100 / 180})
    assert tell(imbalance="effective_number")[1] == pytest.approx(
        tell(imbalance="effective_number", effective_number_beta=0.999)[1]
    )
    assert tell(imbalance="balanced_sampler") == (
        "times an image is shown in an epoch", pytest.approx({"rare": 5.0, "frequent": 100 / 180}),
    )  # fmt: skip
    assert tell(imbalance="logit_adjust")[1] == pytest.approx({"rare": math.log(0.1), "frequent": math.log(0.9)})
    assert tell() is None
    assert tell(imbalance="focal") is None
    assert describe_effect({"imbalance": "weights"}, counts, 100, multi_label=True)[1]["rare"] == pytest.approx(9.0)


def build(imbalance, *, multi_label=False, counts=(60, 30, 10), **options):
    train = SplitRecord("train", "train", sum(counts), dict(zip("abc", counts, strict=True)))
    return build_loss(FitArguments(imbalance=imbalance, **options), list("abc"), train, multi_label=multi_label)


def test_each_way_about_imbalance_changes_its_part_of_the_loss():
    plain = build("none")
    assert plain == SampleLoss()
    assert build("balanced_sampler") == plain
    assert build("focal", focal_gamma=1.5) == SampleLoss("focal", focal_gamma=1.5)
    np.testing.assert_allclose(build("weights").class_weights, [100 / 180, 100 / 90, 100 / 30], rtol=1e-6)
    effective = [build("effective_number", effective_number_beta=beta).class_weights for beta in (0.9, 0.999)]
    assert effective[1][2] > effective[0][2] > 1 > effective[0][0] > effective[1][0]
    # Logit adjustment: the loss of logits with the prior's logarithm added, equation 10 of the source.
    adjusted = build("logit_adjust")
    prior = torch.tensor([0.6, 0.3, 0.1])
    expected = F.cross_entropy(LOGITS.float() + prior.log(), IDS, reduction="none")
    torch.testing.assert_close(adjusted(LOGITS, IDS), expected)
    assert math.isfinite(build("logit_adjust", counts=(9, 1, 0))(LOGITS, IDS).sum())


def test_what_makes_no_sense_is_refused():
    for method in ("logit_adjust", "balanced_sampler"):
        with pytest.raises(ArgumentError, match=f"imbalance {method} with several labels"):
            build(method, multi_label=True)
    for method in ("weights", "effective_number", "focal"):
        assert build(method, multi_label=True).multi_label
    with pytest.raises(ArgumentError, match="not known"):
        build_loss(FitArguments(imbalance="weights"), list("abc"), None, multi_label=False)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cross_entropy", IDS),
        ("cross_entropy", MIXED),
        ("bce", IDS),
        ("bce", SETS),
        ("focal", MIXED),
        ("asymmetric", SETS),
    ],
)
def test_micro_batches_add_up_to_the_whole(name, labels, weights):
    loss = SampleLoss(name, multi_label=labels is SETS, class_weights=weights)
    whole = divide_losses(loss(LOGITS, labels, 0.1))
    assert whole.item() == pytest.approx(loss(LOGITS, labels, 0.1).mean().item(), rel=1e-6)
    # Trainer counts the entries of the labels, before images are mixed.
    count = torch.tensor(labels.numel() if labels is SETS else 4)
    parts = [
        divide_losses(loss(LOGITS[rows], labels[rows], 0.1), count, labels.shape[1] if labels is SETS else 1)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
