"""Which examples an epoch shows: counts, order, repetitions, and that processes share them out exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.compat.models import plain_image_processor_class
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.fit.sampling import ClassBalancedSampler, RepeatedSampler, ShuffledSampler, WithoutLast, build_sampler

DATA = DataArguments(dataset_name="digits", max_train_samples=61)
LABELS = [0] * 70 + [1] * 25 + [3] * 6  # nobody has class 2


def test_balanced_epochs_have_as_many_of_each_class():
    sampler = ClassBalancedSampler(LABELS, seed=0)
    positions = np.array(list(sampler))
    assert len(positions) == len(sampler) == 101
    rows, repetition = positions % 101, positions // 101
    assert sorted(Counter(np.array(LABELS)[rows]).values()) == [33, 34, 34]
    # A rare example comes as often as any other of its class, and each time as another repetition.
    rare = Counter(rows[rows >= 95].tolist())
    assert set(rare) == set(range(95, 101))
    assert max(rare.values()) - min(rare.values()) <= 1
    assert len(set(positions.tolist())) == 101
    assert repetition[rows < 70].max() == 0
    assert repetition.max() == max(rare.values()) - 1


def test_the_order_is_a_function_of_seed_and_epoch():
    for build in (lambda seed: ClassBalancedSampler(LABELS, seed), lambda seed: RepeatedSampler(101, seed, 3)):
        sampler = build(0)
        first = list(sampler)
        assert list(sampler) == first == list(build(0))
        assert list(build(1)) != first
        sampler.set_epoch(1)
        assert list(sampler) != first
        sampler.set_epoch(0)
        assert list(sampler) == first


def test_repeats_follow_each_other():
    positions = np.array(list(RepeatedSampler(10, 0, 3)))
    assert len(positions) == 10
    assert (positions % 10)[:9].reshape(3, 3).std(axis=1).max() == 0
    assert (positions // 10).tolist() == [0, 1, 2] * 3 + [0]


@pytest.mark.parametrize("sampler", [ClassBalancedSampler(LABELS, 0), RepeatedSampler(101, 0, 3)])
def test_two_processes_show_what_one_does(sampler):
    one = [position for batch in BatchSampler(sampler, 8, drop_last=True) for position in batch]
    shards = [list(BatchSamplerShard(BatchSampler(sampler, 4, drop_last=True), 2, rank)) for rank in range(2)]
    assert len(shards[0]) == len(shards[1]) == 12
    two = [position for pair in zip(*shards, strict=True) for batch in pair for position in batch]
    assert two == one


def test_samplers_are_asked_for():
    digits = load_image_dataset(DATA)

    def build(imbalance="none", **asked):
        data = replace(DATA, **asked)
        plan = attach_transforms(digits, plain_image_processor_class()(size={"height": 16, "width": 16}), data, seed=0)
        return build_sampler(FitArguments(imbalance=imbalance), plan, 7), plan

    assert build()[0] is None
    assert build("weights")[0] is None
    balanced, plan = build("balanced_sampler")
    labels = np.array(digits.splits["train"]["label"][:])
    counts = Counter(labels[np.array(list(balanced)) % len(plan.train)].tolist())
    assert len(counts) == 10
    assert max(counts.values()) - min(counts.values()) <= 1
    repeated, plan = build(augmentation_repeats=2)
    assert isinstance(repeated, RepeatedSampler)
    assert (repeated.repeats, repeated.seed, len(repeated)) == (2, 7, len(plan.train))
    # What it asks for is there: one example twice, augmented differently.
    pair = plan.train.__getitems__(list(repeated)[:2])
    assert pair[0]["sample_index"] == pair[1]["sample_index"]
    assert not np.array_equal(pair[0]["crop_box"], pair[1]["crop_box"])


@pytest.mark.parametrize(
    "inner", [ShuffledSampler(17, 0), RepeatedSampler(17, 0, 2), ClassBalancedSampler([0, 1] * 8 + [0], 0)]
)
def test_the_last_example_is_left_out_and_another_one_in_each_epoch(inner):
    sampler, left_out = WithoutLast(inner), set()
    for epoch in range(8):
        sampler.set_epoch(epoch)
        shown = list(sampler)
        assert len(shown) == len(sampler) == 16
        inner.set_epoch(epoch)
        assert shown == list(inner)[:-1]
        left_out |= set(range(17)).difference(position % 17 for position in shown)
    assert len(left_out) > 3
