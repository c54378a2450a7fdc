"""The losses against hand-made numbers and torch's own, with one label per image and with several."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from hf_imgcls.errors import ArgumentError
from hf_imgcls.fit.loss import LOSSES, choose_loss, compute_classification_loss, compute_sample_losses

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 4.0], [0.1, 0.2, -0.3], [30.0, -40.0, 0.0]], dtype=torch.float64)
IDS = torch.tensor([0, 2, 1, 0])
SETS = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]])


def losses(name, labels, smoothing=0.0):
    return compute_sample_losses(SimpleNamespace(logits=LOGITS), labels, smoothing, LOSSES[name])


def test_the_default_is_chosen_by_the_labels():
    assert choose_loss("auto", multi_label=False) is LOSSES["cross_entropy"]
    assert choose_loss("auto", multi_label=True) is LOSSES["bce"]
    for name in ("bce", "asymmetric"):
        assert choose_loss(name, multi_label=True) is choose_loss(name, multi_label=False) is LOSSES[name]
    with pytest.raises(ArgumentError, match="bce or asymmetric"):
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
    LOSSES["asymmetric"](logits, SETS[:1], 0.0).backward()
    p = 1 / (1 + math.exp(-2.0))
    assert logits.grad[0, 0].item() == pytest.approx(-(1 - p) * (1 - p) / 3, rel=1e-4)


def test_cross_entropy_is_untouched():
    expected = F.cross_entropy(LOGITS.float(), IDS, reduction="none", label_smoothing=0.2)
    assert torch.equal(losses("cross_entropy", IDS, 0.2), expected)


@pytest.mark.parametrize(
    ("name", "labels"), [("cross_entropy", IDS), ("bce", IDS), ("bce", SETS), ("asymmetric", SETS)]
)
def test_micro_batches_add_up_to_the_whole(name, labels):
    outputs = SimpleNamespace(logits=LOGITS)
    whole = compute_classification_loss(outputs, labels, None, 0.1, LOSSES[name])
    assert whole.item() == pytest.approx(losses(name, labels, 0.1).mean().item(), rel=1e-6)
    # Trainer counts the entries of the labels.
    parts = [
        compute_classification_loss(
            SimpleNamespace(logits=LOGITS[rows]), labels[rows], torch.tensor(labels.numel()), 0.1, LOSSES[name]
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
