"""Every hint is followed on made-up data, and helps: small networks and scikit-learn's digits as files."""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tiny_models import TINY_CONFIGS
from torch.utils.flop_counter import FlopCounterMode

from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.arguments.small_configs import choose_small_config
from hf_imgcls.arguments.training_policy import Situation
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.pixel_statistics import resolve_pixel_statistics
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.advice import describe_plan, read_sizes
from hf_imgcls.fit.build import build_trainer
from hf_imgcls.fit.hints import HINTS, REMEDIES, Outcome, RunPlan, give_hints
from hf_imgcls.fit.ladder import train_auto
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.probe import train_probe
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator

FOLLOWED: dict[str, object] = {}


def follows(*names):
    """Note which hints a test follows."""

    def note(test):
        FOLLOWED.update(dict.fromkeys(names, test))
        return test

    return note


@pytest.fixture(scope="module")
def write_set(tmp_path_factory):
    """Writes a data set of digits: so many training images of each class, and 30 of each for validation and test."""
    digits, written = load_digits(), {}

    def write(counts, held_out=30):
        key = tuple(counts)
        if key not in written:
            folder = written[key] = tmp_path_factory.mktemp("set")
            for label, count in enumerate(counts):
                rows = np.flatnonzero(digits.target == label)
                parts = {"test": rows[:held_out], "validation": rows[held_out : 2 * held_out]}
                parts["train"] = rows[2 * held_out : 2 * held_out + count]
                for split, chosen in parts.items():
                    target = folder / split / f"digit {label}"
                    target.mkdir(parents=True)
                    for row in chosen:
                        pixels = (255 - digits.images[row] * 15.9).astype(np.uint8)
                        Image.fromarray(pixels).save(target / f"{row}.png")
        return written[key]

    return write


def prepare(folder, fit, data=None, seed=0, **training):
    """A run before its first step."""
    torch.manual_seed(seed)
    options = {"augmentation": "none", "image_size": 32, "cache_dir": str(folder / "cache")} | (data or {})
    folders = {f"{split}_dir": str(folder / split) for split in ("train", "validation", "test")}
    data = DataArguments(**folders, **options)
    dataset = load_image_dataset(data)
    pixels = resolve_pixel_statistics(data, dataset)
    model, processor = build_model(fit, pixels, dataset.labels)
    batches = attach_transforms(dataset, processor, data, seed=0)
    training = {
        "output_dir": str(folder / "run"), "use_cpu": True, "report_to": "none", "disable_tqdm": True, "do_train": True,
        "label_names": ["labels"], "remove_unused_columns": False, "eval_strategy": "no", "save_strategy": "no",
        "do_eval": True, "per_device_train_batch_size": 32, "per_device_eval_batch_size": 150, "logging_steps": 1000,
        "lr_scheduler_type": "cosine", "learning_rate": 1e-3, **training,
    }  # fmt: skip
    asked = Arguments(data, fit, MeasureArguments(), PublishArguments(), training, explicit={"adaptation"})
    args = build_training_arguments(training)
    model = adapt_model(model, fit)
    trainer = build_trainer(
        model, processor, batches, partial(ClassificationAccumulator, len(dataset.labels)), asked, args
    )  # fmt: skip
    size = batches.train_transform.preprocessor.target_size
    plan = describe_plan(asked, dataset, args, model, size, read_sizes(dataset))
    return SimpleNamespace(trainer=trainer, dataset=dataset, batches=batches, asked=asked, plan=plan)


def learn(*args, **options):
    """The metrics of a whole run on its test split, and what hints say of it."""
    run = prepare(*args, **options)
    given = run.trainer, run.dataset, run.batches, run.asked
    if run.asked.fit.adaptation == "probe":
        train_probe(*given)
    elif run.asked.fit.adaptation == "auto":
        train_auto(*given, None)
    else:
        run.trainer.train()
    metrics = run.trainer.evaluate(run.batches.test)
    return SimpleNamespace(
        plan=run.plan, trainer=run.trainer, **{k.removeprefix("eval_"): v for k, v in metrics.items()}
    )


def says(name, plan):
    """What one hint says."""
    return next(hint for hint in HINTS if hint.name == name).tell(plan)


SCRATCH = FitArguments(model_type="resnet", model_config=TINY_CONFIGS["resnet"])


@pytest.fixture(scope="module")
def base(write_set, tmp_path_factory):
    """A small ResNet that was trained on enlarged digits, saved; its head knows other names."""
    # Of another seed: a new head of the same one would be what this backbone began with.
    done = learn(write_set([110] * 10), SCRATCH, seed=1, num_train_epochs=8, learning_rate=3e-3)
    assert done.accuracy > 0.8
    folder = tmp_path_factory.mktemp("base")
    done.trainer.model.config.id2label = {index: f"other {index}" for index in range(10)}
    done.trainer.model.save_pretrained(folder)
    done.trainer.processing_class.save_pretrained(folder)
    return FitArguments(model_name_or_path=str(folder))


def change(fit, **changes):
    return FitArguments(**{**vars(fit), **changes})


@pytest.mark.slow
@follows("rare classes")
@pytest.mark.exhaustive
def test_more_images_of_a_rare_class(write_set, base):
    few, more = (learn(write_set([60] * 4 + [count]), change(base, adaptation="probe")) for count in (3, 60))
    assert "1 class has fewer than 10 training images ('digit 4')" in says("rare classes", few.plan)
    assert not says("rare classes", more.plan)
    assert more.balanced_accuracy > few.balanced_accuracy


@pytest.mark.slow
@follows("imbalanced classes")
@pytest.mark.exhaustive
def test_logit_adjustment_for_balanced_accuracy(write_set, base):
    counts = [110, 8, 8, 8, 8, 8]
    plain, adjusted = (
        learn(write_set(counts), change(base, imbalance=name), num_train_epochs=6) for name in ("none", "logit_adjust")
    )
    hint = says("imbalanced classes", plain.plan)
    assert "14 times" in hint
    assert "raises balanced_accuracy and macro_recall; it lowers accuracy" in hint
    assert not says("imbalanced classes", adjusted.plan)
    assert adjusted.balanced_accuracy > plain.balanced_accuracy


@pytest.mark.slow
@follows("few images from scratch", "unbeaten: from scratch")
@pytest.mark.exhaustive
def test_a_pretrained_model_instead_of_none(write_set, base):
    flags = {"num_train_epochs": 12, "learning_rate": 3e-3}
    scratch, tuned = (learn(write_set([12] * 10), fit, **flags) for fit in (SCRATCH, base))
    assert "12 images a class are few" in says("few images from scratch", scratch.plan)
    assert not says("few images from scratch", tuned.plan)
    assert tuned.accuracy > scratch.accuracy + 0.1


@pytest.mark.slow
@follows("transformer from scratch")
@pytest.mark.exhaustive
def test_a_convolutional_network_instead_of_a_transformer(write_set):
    flags = {"num_train_epochs": 3, "data": {"image_size": 28}}
    vit, resnet = (
        learn(
            write_set([60] * 10),
            FitArguments(model_type=model_type, model_config=choose_small_config(model_type, 28, {})),
            **flags,
        )
        for model_type in ("vit", "resnet")
    )
    assert "--model_type resnet" in says("transformer from scratch", vit.plan)
    assert not says("transformer from scratch", resnet.plan)
    assert resnet.accuracy > vit.accuracy


@pytest.mark.slow
@follows("few images for all weights", "unbeaten: pretrained")
@pytest.mark.exhaustive
def test_a_probe_first(write_set, base):
    flags = {"num_train_epochs": 2, "learning_rate": 1e-3}
    full, auto = (
        learn(write_set([5] * 10), change(base, adaptation=name, auto_finetune="full"), **flags)
        for name in ("full", "auto")
    )
    assert "--adaptation auto" in says("few images for all weights", full.plan)
    assert not says("few images for all weights", auto.plan)
    assert auto.accuracy > full.accuracy


@follows("small validation split")
def test_more_validation_images_or_log_loss_choose_better():
    plan = RunPlan(Situation("full", False, True, 500, 32), num_validation=100)
    assert "differ by 10 points or more: use --metric_for_best_model log_loss" in says("small validation split", plan)
    assert not says("small validation split", RunPlan(plan.situation, num_validation=400))
    random = np.random.default_rng(0)

    def choose_right(n, measure):
        """How often the better of two models, by 0.2 in the margin of its logits, is chosen."""
        noise = random.normal(size=(500, n))
        return np.mean([measure(row + 1.2) > measure(row + 1.0) for row in noise])

    def accuracy(margin):
        return (margin > 0).mean()

    def minus_log_loss(margin):
        return -np.logaddexp(0, -margin).mean()

    # Models whose errors are their own: the noise of the second is another draw.
    def choose_apart(n, measure):
        return np.mean([measure(random.normal(1.2, 1, n)) > measure(random.normal(1.0, 1, n)) for _ in range(2000)])

    assert choose_apart(400, accuracy) > choose_apart(100, accuracy) + 0.03
    assert choose_apart(100, minus_log_loss) > choose_apart(100, accuracy) + 0.02
    assert choose_right(100, minus_log_loss) == 1.0


@pytest.mark.slow
@follows("enlarged images from scratch")
@pytest.mark.exhaustive
def test_images_at_their_own_size_from_scratch(write_set):
    folder, flags = write_set([60] * 5), {"num_train_epochs": 8, "learning_rate": 3e-3}
    large, small = (learn(folder, SCRATCH, data={"image_size": side}, **flags) for side in (32, 16))
    assert "costs 16 times as much" in says("enlarged images from scratch", large.plan)
    assert not says("enlarged images from scratch", small.plan)
    costs = []
    for run, side in ((large, 32), (small, 16)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run.trainer.model(pixel_values=torch.zeros(1, 3, side, side))
        costs.append(counter.get_total_flops())
    assert costs[0] > 3 * costs[1]
    assert small.accuracy > large.accuracy - 0.1


@pytest.mark.slow
@follows("below the model's own size")
@pytest.mark.exhaustive
def test_the_size_that_the_weights_know(write_set, base):
    small, own = (
        learn(write_set([40] * 10), change(base, adaptation="probe"), data={"image_size": side}) for side in (16, 32)
    )
    hint = says("below the model's own size", small.plan)
    assert "trained at 32 pixels and gets 16" in hint
    assert "for about 4 times the computation" in hint
    assert "5 and 12 points" in hint
    assert not says("below the model's own size", own.plan)
    assert own.accuracy > small.accuracy


@pytest.mark.slow
@follows("few steps", "unbeaten: few steps")
@pytest.mark.exhaustive
def test_as_many_steps_as_are_said_to_suit(write_set, base):
    folder = write_set([12] * 10)
    few = learn(folder, base, max_steps=4)
    steps = int(re.search(r"--max_steps (\d+)", says("few steps", few.plan))[1])
    more = learn(folder, base, max_steps=steps)
    assert not says("few steps", more.plan)
    assert more.accuracy > few.accuracy + 0.1


@pytest.mark.slow
@follows("learning rate far off", "unbeaten: learning rate")
@pytest.mark.exhaustive
def test_the_learning_rate_that_is_usual(write_set, base):
    folder, flags = write_set([30] * 10), {"num_train_epochs": 4}
    low = learn(folder, base, learning_rate=5e-5, **flags)
    hint = says("learning rate far off", low.plan)
    assert "5e-05 is low" in hint
    usual = learn(folder, base, learning_rate=float(re.search(r"--learning_rate (\S+)", hint)[1]), **flags)
    assert not says("learning rate far off", usual.plan)
    assert usual.accuracy > low.accuracy + 0.1
    high = learn(folder, base, learning_rate=1.0, **flags)
    assert "1 is high" in says("learning rate far off", high.plan)
    assert usual.accuracy > high.accuracy


def test_every_hint_has_a_test_that_follows_it():
    names = [hint.name for hint in (*HINTS, *REMEDIES)]
    assert len(names) == len(set(names)) > 10
    assert set(names) == set(FOLLOWED)


def test_hints_name_arguments_that_exist():
    known = {name for group in (DataArguments, FitArguments) for name in group.__dataclass_fields__}
    known |= set(build_training_arguments({"output_dir": "unused", "report_to": "none"}).to_dict())
    flags = [flag for hint in (*HINTS, *REMEDIES) for flag in hint.flags]
    assert len(flags) > 10
    assert set(flags) <= known


def test_a_layer_norm_bears_a_low_rate_and_another_optimizer_is_not_judged(write_set):
    layer_norm = Situation("full", False, False, 500, 32)
    assert not says("learning rate far off", RunPlan(layer_norm, learning_rate=2e-5))
    assert "1e-06 is low" in says("learning rate far off", RunPlan(layer_norm, learning_rate=1e-6))
    assert "0.01 is high" in says("learning rate far off", RunPlan(layer_norm, learning_rate=1e-2))
    run = prepare(write_set([12] * 10), SCRATCH, optim="sgd", learning_rate=0.1, max_steps=2)
    assert run.plan.learning_rate is None


def test_what_may_help_depends_on_what_was_not_beaten():
    tuned = RunPlan(Situation("full", False, True, 500, 32), steps=300)
    assert "--adaptation auto" in "".join(give_hints(REMEDIES, Outcome(tuned)))
    assert "--adaptation probe" in "".join(give_hints(REMEDIES, Outcome(tuned, "not distinguishable")))
    few = RunPlan(Situation("full", False, True, 500, 32), steps=3, learning_rate=5e-5)
    told = give_hints(REMEDIES, Outcome(few, "worse"))
    assert [word in hint for word, hint in zip(("--learning_rate", "--num_train_epochs"), told, strict=False)] == [
        True,
        True,
    ]
    scratch = RunPlan(Situation("full", True, True, 500, 32), steps=2000)
    assert give_hints(REMEDIES, Outcome(scratch)) == ["begin with a pretrained --model_name_or_path"]
