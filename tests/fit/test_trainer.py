"""The Trainer: loss, schedules, and that restoring restores every tensor."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TINY_CONFIGS
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainerState, TrainingArguments

from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import ArgumentError, ModelError
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.build import build_trainer, resolve_unused_parameters, resolve_workers
from hf_imgcls.fit.callbacks import describe_ending
from hf_imgcls.fit.depthwise import DepthwiseConv2d
from hf_imgcls.fit.loss import SampleLoss, divide_losses
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.schedule import build_step_schedule
from hf_imgcls.fit.soup import average_checkpoints
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator

DATA = DataArguments(dataset_name="digits", image_size=32, max_train_samples=64, max_eval_samples=32)


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset(DATA)


def make_trainer(digits, folder, family="vit", fit=None, data=DATA, **training):
    torch.manual_seed(0)
    fit = FitArguments(model_type=family, model_config=TINY_CONFIGS[family], **(fit or {}))
    model, processor = build_model(fit, DATA, digits.labels)
    training = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        **training,
    }
    batches = attach_transforms(digits, processor, data, seed=0)
    metric = partial(ClassificationAccumulator, len(digits.labels))
    args = Arguments(data, fit, MeasureArguments(), PublishArguments(), training)
    return build_trainer(adapt_model(model, fit), processor, batches, metric, args, build_training_arguments(training))


def test_the_loss_is_divided_once_by_the_whole_batch():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0])
    losses = SampleLoss()
    # -log softmax by hand: log(1 + e^-2) and log(1 + e^1)
    total = torch.log(1 + torch.exp(torch.tensor(-2.0))) + torch.log(1 + torch.exp(torch.tensor(1.0)))
    torch.testing.assert_close(divide_losses(losses(logits, labels)), total / 2)
    torch.testing.assert_close(divide_losses(losses(logits, labels), num_items_in_batch=8), total / 8)
    smoothed = divide_losses(losses(logits, labels, smoothing=0.2))
    reference = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(smoothed, reference)
    assert not torch.isclose(smoothed, total / 2)


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_best_model_and_resume_restore_every_tensor(family, digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, family, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-1"
    expected = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert len(expected) > 10

    def spoil():
        with torch.no_grad():
            for tensor in trainer.model.state_dict().values():
                tensor.zero_() if tensor.is_floating_point() else None

    spoil()
    trainer.state.best_model_checkpoint = str(checkpoint)
    trainer._load_best_model()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    spoil()
    trainer._load_from_checkpoint(str(checkpoint))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_checkpoint_that_lacks_a_tensor_is_refused(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.train()
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    tensors = load_file(path)
    dropped = next(iter(tensors))
    save_file({name: tensor for name, tensor in tensors.items() if name != dropped}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="does not hold"):
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))


def test_lora_training_restores_the_best_adapter_and_head(digits, tmp_path):
    pytest.importorskip("peft")
    trainer = make_trainer(
        digits, tmp_path, fit={"adaptation": "lora"}, save_strategy="steps", save_steps=1, max_steps=1
    )
    trainer.train()
    expected = {name: p.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in expected)
    assert any("classifier" in name for name in expected)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    trainer._load_best_model()
    for name, parameter in trainer.model.named_parameters():
        if name in expected:
            assert torch.equal(parameter, expected[name]), name


def test_evaluation_counts_each_example_once_and_its_loss_is_the_mean(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, per_device_eval_batch_size=5)  # ragged: 32 = 6 x 5 + 2
    metrics = trainer.evaluate()
    logits, labels = [], []
    for start in range(0, 32, 8):
        rows = trainer.eval_dataset[list(range(start, start + 8))]
        batch = trainer.plan.eval_device_transform(dict(rows))
        with torch.no_grad():
            logits.append(trainer.model.eval()(pixel_values=batch["pixel_values"]).logits)
        labels.append(batch["labels"])
    logits, labels = torch.cat(logits), torch.cat(labels)
    assert len(labels) == 32
    expected = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert trainer.model.training is False  # as it was left


def test_the_model_trains_on_normalised_pixels_only(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path)
    seen = []
    trainer.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    trainer.train()
    assert len(seen) == 2
    for kwargs in seen:
        assert set(kwargs) == {"pixel_values"}
        assert kwargs["pixel_values"].dtype == torch.float32
        assert kwargs["pixel_values"].shape == (16, 3, 32, 32)
        assert kwargs["pixel_values"].min() < -0.5


def test_the_same_seed_gives_the_same_weights(digits, tmp_path):
    weights = []
    for run in range(2):
        trainer = make_trainer(digits, tmp_path / str(run), max_steps=6, dataloader_num_workers=2 * run)
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name


class Snapshots(TrainerCallback):
    """Keeps the classifier's weights after every step of the optimiser."""

    def __init__(self, weight):
        self.weight, self.seen = weight, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.seen.append(self.weight.detach().clone())


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("load_best", [False, True])
def test_the_average_of_the_weights_is_measured_and_saved(digits, tmp_path, accumulation, load_best):
    decay = 0.6
    training = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 4}
    trainer = make_trainer(
        digits, tmp_path, fit={"ema_decay": decay}, per_device_train_batch_size=8, load_best_model_at_end=load_best,
        metric_for_best_model="loss", gradient_accumulation_steps=accumulation, **training,
    )  # fmt: skip
    snapshots = Snapshots(trainer.model.classifier.weight)
    trainer.add_callback(snapshots)
    losses = []
    log = trainer.log
    trainer.log = lambda logs, *args, **kwargs: (losses.append(logs.get("eval_loss")), log(logs, *args, **kwargs))
    trainer.train()
    assert len(snapshots.seen) == 4
    # By hand: the first weights as they are, then a decay that starts at (1 + t) / (10 + t).
    average, expected = snapshots.seen[0], {}
    for step, weight in enumerate(snapshots.seen[1:], start=1):
        share = min(decay, (1 + step) / (10 + step))
        average = share * average + (1 - share) * weight
        expected[step + 1] = average
    for step in (2, 4):
        saved = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")["classifier.weight"]
        torch.testing.assert_close(saved, expected[step])
    best = trainer.state.best_global_step if load_best else 4
    torch.testing.assert_close(trainer.model.classifier.weight.detach(), expected[best])
    # What was measured on the way is what the saved weights give.
    measured = [loss for loss in losses if loss is not None]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(measured[(2, 4).index(best)], rel=1e-5)


def test_an_average_needs_a_checkpoint_that_has_one(digits, tmp_path):
    make_trainer(digits, tmp_path, save_strategy="steps", save_steps=1, max_steps=1).train()
    trainer = make_trainer(digits, tmp_path, fit={"ema_decay": 0.9})
    with pytest.raises(ArgumentError, match="saved without --ema_decay"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_soup_is_the_average_of_the_checkpoints_that_make_it_better(digits, tmp_path):
    training = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "save_total_limit": 9}
    trainer = make_trainer(digits, tmp_path, metric_for_best_model="loss", greater_is_better=False, **training)
    trainer.train()
    # The first two err in opposite directions, the third one is far away.
    weight = trainer.model.classifier.weight.detach().clone()
    error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    for step, change in ((1, 0.5 * error), (2, -0.5 * error), (3, 9 * error)):
        path = tmp_path / f"checkpoint-{step}" / "model.safetensors"
        save_file(load_file(path) | {"classifier.weight": weight + change}, path, metadata={"format": "pt"})
    soup = average_checkpoints(trainer, tmp_path)
    assert sorted(soup) == ["checkpoint-1", "checkpoint-2"]
    torch.testing.assert_close(trainer.model.classifier.weight.detach(), weight)
    cooked = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    loss, alone, parts = trainer.evaluate()["eval_loss"], {}, {}
    for name in soup:
        trainer._load_from_checkpoint(str(tmp_path / name))
        alone[name] = trainer.evaluate()["eval_loss"]
        parts[name] = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert soup[0] == min(alone, key=alone.get)
    assert loss < min(alone.values())
    for name, tensor in cooked.items():
        torch.testing.assert_close(tensor, torch.stack([weights[name] for weights in parts.values()]).mean(dim=0))


def test_no_soup_without_ingredients(digits, tmp_path, caplog):
    trainer = make_trainer(digits, tmp_path)
    before = trainer.model.classifier.weight.detach().clone()
    assert average_checkpoints(trainer, tmp_path) == []
    assert "no checkpoint was saved" in caplog.text
    assert torch.equal(trainer.model.classifier.weight, before)


class ReadsOffTheDevice(TorchDispatchMode):
    """Counts what makes a CPU wait for its GPU: the value of a tensor that Python asks for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_reads_no_value_off_the_device(digits, tmp_path):
    counts = []
    for steps in (1, 3):  # of the same epoch
        training = {"max_steps": steps, "logging_strategy": "no", "logging_nan_inf_filter": False}
        trainer = make_trainer(digits, tmp_path / str(steps), **training)
        with ReadsOffTheDevice() as reads:
            trainer.train()
        counts.append(reads.count)
    # For each step the loader reads the epoch, and the watch over NaN its answer; on a GPU, one that is there already.
    assert counts[0] > 0
    assert counts[1] - counts[0] == 2 * 2


def test_images_that_are_kept_decoded_need_no_workers_unless_asked_for(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, dataloader_num_workers=3)
    _, processor = build_model(FitArguments(model_type="vit", model_config=TINY_CONFIGS["vit"]), DATA, digits.labels)
    batches = attach_transforms(digits, processor, DATA, seed=0)
    resolve_workers(trainer.args, batches, {"dataloader_num_workers"})
    assert trainer.args.dataloader_num_workers == 3
    resolve_workers(trainer.args, batches, set())
    assert trainer.args.dataloader_num_workers == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_are_copied_to_the_gpu_while_it_computes(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, use_cpu=False)
    assert trainer.accelerator.non_blocking
    assert trainer.args.dataloader_pin_memory


def test_early_stopping_ends_the_run(digits, tmp_path):
    trainer = make_trainer(
        digits,
        tmp_path,
        fit={"early_stopping_patience": 1, "early_stopping_threshold": 1.0},  # nothing is ever that much better
        max_steps=20,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
    )
    trainer.train()
    assert 2 <= trainer.state.global_step < 20


def test_of_equally_good_models_the_one_with_the_lower_loss_is_kept(digits, tmp_path):
    training = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": True}
    trainer = make_trainer(digits, tmp_path, learning_rate=1e-6, **training, **best)
    trainer.train()
    found = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    losses = [entry["eval_loss"] for entry in found]
    assert len(found) == 4
    assert len({entry["eval_accuracy"] for entry in found}) == 1  # steps too small for another answer
    assert losses.index(min(losses)) > 0
    assert trainer.state.best_global_step == losses.index(min(losses)) + 1
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{trainer.state.best_global_step}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-9)


def learning_rates(schedule, optimizer, steps):
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_the_step_schedule_warms_up_and_drops():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_step_schedule(optimizer, 2, steps_per_epoch=4, settings={"step_epochs": 2, "gamma": 0.5})
    assert learning_rates(schedule, optimizer, 18) == [0, 0.5] + [1.0] * 6 + [0.5] * 8 + [0.25] * 2
    with pytest.raises(ArgumentError, match="step_epoch"):
        build_step_schedule(optimizer, 0, 1, {"step_epoch": 3})


@pytest.mark.parametrize("warmup", [{"warmup_ratio": 0.5}, {"warmup_steps": 2}])
@pytest.mark.parametrize("kind", ["cosine", "linear", "step"])
def test_schedules_warm_up_on_this_transformers_line(digits, tmp_path, kind, warmup):
    settings = {"lr_scheduler_kwargs": {"step_epochs": 1, "gamma": 0.1}} if kind == "step" else {}
    trainer = make_trainer(digits, tmp_path, lr_scheduler_type=kind, max_steps=4, **warmup, **settings)
    trainer.create_optimizer_and_scheduler(num_training_steps=4)
    rates = learning_rates(trainer.lr_scheduler, trainer.optimizer, 3)
    assert rates == pytest.approx([0.0, 0.005, 0.01 if kind != "step" else rates[2]])


def test_channels_last_changes_the_layout_and_not_the_answers(digits, tmp_path):
    weights = []
    for channels_last in (False, True):
        trainer = make_trainer(digits, tmp_path, "convnext", fit={"channels_last": channels_last}, max_steps=3)
        seen = []
        trainer.model.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(kwargs["pixel_values"]), with_kwargs=True
        )
        trainer.train()
        assert len(seen) == 3
        assert all(x.is_contiguous(memory_format=torch.channels_last) == channels_last for x in seen)
        stem = trainer.model.convnext.embeddings.patch_embeddings.weight
        assert stem.is_contiguous(memory_format=torch.channels_last) == channels_last
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-4, rtol=1e-3)
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved["convnext.embeddings.patch_embeddings.weight"].is_contiguous()


@pytest.mark.parametrize("quantization_aware", [False, True])
def test_depthwise_convolutions_are_fast_where_nothing_looks_for_them(quantization_aware, digits, tmp_path):
    fit = {"quantization_aware_training": quantization_aware}
    model = make_trainer(digits, tmp_path, "convnext", fit=fit).model
    assert any(type(module) is DepthwiseConv2d for module in model.modules()) == (not quantization_aware)


@pytest.mark.parametrize("family", ["convnext", "swin", "beit", "dinov2"])
def test_stochastic_depth_is_set_where_there_is_one(family, digits, tmp_path):
    fit = FitArguments(model_type=family, model_config=TINY_CONFIGS[family], drop_path_rate=0.5)
    model, processor = build_model(fit, DATA, digits.labels)
    processor.save_pretrained(tmp_path)
    rates = [module.drop_prob for module in model.modules() if type(module).__name__.endswith("DropPath")]
    assert max(rates) == 0.5
    model.save_pretrained(tmp_path)
    other = FitArguments(model_name_or_path=str(tmp_path), drop_path_rate=0.25)
    loaded, _ = build_model(other, DATA, digits.labels)
    assert loaded.config.drop_path_rate == 0.25
    with pytest.raises(ModelError, match="vit has no stochastic depth"):
        build_model(
            FitArguments(model_type="vit", model_config=TINY_CONFIGS["vit"], drop_path_rate=0.1), DATA, ["a", "b"]
        )


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_order_has_the_seed_of_the_data(repeats, tmp_path):
    """Also where an image is left out for BatchNorm, or each comes twice."""
    data = DataArguments(dataset_name="digits", image_size=32, max_train_samples=17, augmentation_repeats=repeats)
    small = load_image_dataset(data)
    orders = {}
    for seeds in [(3, None), (3, 3), (3, 5), (5, None), (0, 5), (3, 0)]:
        training = {"per_device_train_batch_size": 8, "seed": seeds[0], "data_seed": seeds[1]}
        trainer = make_trainer(small, tmp_path, "mobilenet_v2", data=data, **training)
        orders[seeds] = tuple(trainer._get_train_sampler())
    assert orders[3, None] == orders[3, 3]
    assert orders[3, 5] == orders[5, None] == orders[0, 5]
    assert len({orders[3, 3], orders[3, 5], orders[3, 0]}) == 3


@pytest.mark.parametrize("training", [{}, {"gradient_accumulation_steps": 2}, {"dataloader_drop_last": True}])
def test_batchnorm_never_gets_a_last_batch_of_one(training, tmp_path, caplog):
    data = DataArguments(dataset_name="digits", image_size=32, max_train_samples=17, max_eval_samples=9)
    small = load_image_dataset(data)
    sizes = []

    class Sizes(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            model.register_forward_pre_hook(
                lambda _, __, inputs: sizes.append(len(inputs["pixel_values"])) if model.training else None,
                with_kwargs=True,
            )

    options = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 8, **training}
    trainer = make_trainer(small, tmp_path, "mobilenet_v2", data=data, **options)
    trainer.add_callback(Sizes())
    trainer.train()
    assert sizes == [8, 8, 8, 8]
    drops = training.get("dataloader_drop_last", False)
    assert ("leave a last batch of 1" in caplog.text) != drops
    assert trainer.evaluate()["eval_loss"] > 0
    sizes.clear()
    frozen = make_trainer(
        small, tmp_path, "mobilenet_v2", {"adaptation": "head"}, data=data, **options
    )  # takes any batch
    frozen.add_callback(Sizes())
    frozen.train()
    assert sizes == [8, 8, 8, 8] if drops else sizes == [8, 8, 1, 8, 8, 1]
    vit = make_trainer(small, tmp_path, "vit", data=data, **options)
    assert len(vit.get_train_dataloader()) == (2 if drops else 3)


def test_batches_of_one_before_batchnorm_are_one_clear_error(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, "mobilenet_v2", per_device_train_batch_size=1)
    with pytest.raises(ArgumentError, match="per_device_train_batch_size is 1"):
        trainer.train()


@pytest.mark.parametrize(
    ("family", "fit", "given", "expected"),
    [
        ("vit", {}, None, False),
        ("resnet", {}, None, False),
        ("vit", {"adaptation": "head"}, None, False),
        ("swin", {"adaptation": "partial", "train_layers": 1}, None, False),
        ("dinov2", {}, None, None),  # its mask token is for another task
        ("dinov2", {"adaptation": "head"}, None, False),
        ("vit", {}, True, True),
    ],
)
def test_ddp_searches_for_unused_parameters_only_where_there_are_some(family, fit, given, expected, digits):
    fit = FitArguments(model_type=family, model_config=TINY_CONFIGS[family], **fit)
    model = adapt_model(build_model(fit, DATA, digits.labels)[0], fit)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = SimpleNamespace(world_size=2, ddp_find_unused_parameters=given)
    resolve_unused_parameters(arguments, model, (32, 32))
    assert arguments.ddp_find_unused_parameters is expected
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_loss_of_each_epoch_is_logged_and_the_end_explained(digits, tmp_path, caplog):
    caplog.set_level("INFO", logger="hf_imgcls")
    options = {"num_train_epochs": 3, "max_steps": -1, "eval_strategy": "epoch", "save_strategy": "epoch",
               "metric_for_best_model": "accuracy", "load_best_model_at_end": True}  # fmt: skip
    trainer = make_trainer(digits, tmp_path / "whole", **options)
    trainer.train()
    assert [entry["epoch"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3]
    line = caplog.messages[-1]
    assert line.startswith("Training ended at epoch 3, step 12: all epochs done. Best: epoch ")
    assert f"accuracy {trainer.state.best_metric:.4f}." in line
    early = make_trainer(
        digits, tmp_path / "early", fit={"early_stopping_patience": 1}, **options | {"learning_rate": 1e-12}
    )
    early.train()
    assert "step 8: 1 epoch without a better accuracy. Best: epoch 1, step 4" in caplog.messages[-1]
    short = make_trainer(digits, tmp_path / "short", max_steps=2)
    short.train()
    assert [entry["step"] for entry in short.state.log_history if "loss" in entry] == [2]
    assert caplog.messages[-1] == "Training ended at epoch 0.5, step 2: max_steps."


@pytest.mark.parametrize(("best_step", "shown"), [(6, 6), (None, 8)])
def test_the_end_names_the_best_of_equally_good_evaluations(tmp_path, best_step, shown):
    history = [
        {"epoch": step / 2, "step": step, "eval_accuracy": accuracy, "eval_loss": loss}
        for step, accuracy, loss in [(2, 0.5, 0.4), (4, 0.75, 0.7), (6, 0.75, 0.6), (8, 0.75, 0.5), (10, 0.75, 0.5)]
    ]
    state = TrainerState(global_step=16, max_steps=16, epoch=8, log_history=history, best_metric=0.75)
    state.best_global_step = best_step
    args = TrainingArguments(output_dir=str(tmp_path), metric_for_best_model="accuracy", report_to="none", use_cpu=True)
    assert f"Best: epoch {shown // 2}, step {shown}, accuracy 0.7500" in describe_ending(args, state, None)
