"""The linear probe: what is solved for is the best head, and what is kept belongs to what it was computed of."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny_models import TINY_CONFIGS
from transformers import AutoConfig, AutoModelForImageClassification

from hf_imgcls.arguments.fields import Arguments, DataArguments, FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.classifier.features import Features, digest_backbone
from hf_imgcls.classifier.head import find_linear_head, head_parameter_names
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import DataError, ModelError
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.build import build_trainer
from hf_imgcls.fit.model import build_model
from hf_imgcls.fit.probe import role_features, train_probe
from hf_imgcls.fit.solve_head import solve_head
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator

CPU = torch.device("cpu")


def make_run(folder, family="vit", fit=None, data=None, **training):
    """Everything that ``train_probe`` takes, on 96 digits."""
    sizes = {"max_train_samples": 96, "max_eval_samples": 64, "cache_dir": str(folder / "cache")}
    data = DataArguments(dataset_name="digits", image_size=32, **{**sizes, **(data or {})})
    torch.manual_seed(0)
    dataset = load_image_dataset(data)
    fit = FitArguments(model_type=family, model_config=TINY_CONFIGS[family], **{"adaptation": "probe", **(fit or {})})
    model, processor = build_model(fit, data, dataset.labels)
    training = {
        "output_dir": str(folder), "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "label_names": ["labels"], "remove_unused_columns": False, "eval_strategy": "no", "do_eval": True,
        **training,
    }  # fmt: skip
    batches = attach_transforms(dataset, processor, data, seed=0)
    args = Arguments(data, fit, MeasureArguments(), PublishArguments(), training)
    trainer = build_trainer(
        adapt_model(model, fit), processor, batches, partial(ClassificationAccumulator, len(dataset.labels)), args,
        build_training_arguments(training),
    )  # fmt: skip
    return SimpleNamespace(trainer=trainer, dataset=dataset, batches=batches, args=args)


def draw(num_examples, seed, multi_label=False, scale=1.0):
    """Features of three overlapping classes, on scales that differ, and one that says nothing and hardly varies."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, num_examples)
    values = (random.normal(size=(num_examples, 5)) + np.eye(5)[labels]) * [1, 2, 0.5, 1, 1e-6] + [0, 500, 0, 1, 7]
    values *= scale
    targets = np.stack([labels == 0, labels != 1], axis=1).astype(np.float64) if multi_label else labels
    return Features(values.astype(np.float32), targets, 0.0)


@pytest.mark.parametrize("family", ["vit", "convnext", "resnet"])
def test_the_head_fits_better_and_nothing_else_moves(family, tmp_path):
    run = make_run(tmp_path, family)
    before = {name: tensor.clone() for name, tensor in run.trainer.model.state_dict().items()}
    loss_before = run.trainer.evaluate()["eval_loss"]
    result = train_probe(run.trainer, run.dataset, run.batches, run.args)
    after = run.trainer.model.state_dict()
    head = head_parameter_names(run.trainer.model.config)
    assert {name for name in after if not torch.equal(before[name], after[name])} == head
    measured = run.trainer.evaluate()
    assert measured["eval_loss"] < loss_before
    assert measured["eval_accuracy"] > 0.2
    assert result.metrics["train_penalty"] > 0


def test_folded_weights_give_the_loss_that_was_solved_for(tmp_path):
    run = make_run(tmp_path)
    train_probe(run.trainer, run.dataset, run.batches, run.args)
    parts = [role_features(run.trainer, run.dataset, run.batches, run.args, role) for role in ("train", "validation")]
    solution = solve_head(*parts, 10, CPU)
    # By features that were scaled, float64; and by the model, its pixels and float32.
    assert run.trainer.evaluate()["eval_loss"] == pytest.approx(solution.validation_loss, abs=1e-4)


def test_the_solution_is_scikit_learns():
    train, validation = draw(400, 0), draw(4000, 1)
    solution = solve_head(train, validation, 3, CPU)
    scale = train.values.mean(0), train.values.var(0).mean() ** 0.5
    # Its C multiplies the sum of losses, our penalty goes with their mean.
    reference = LogisticRegression(C=1 / (solution.penalty * len(train)), max_iter=5000, tol=1e-8)
    reference.fit((train.values - scale[0]) / scale[1], train.labels)
    ours = (validation.values @ solution.weight.numpy().T + solution.bias.numpy()).astype(np.float64)
    ours = np.exp(ours - ours.max(1, keepdims=True))
    expected = reference.predict_proba((validation.values - scale[0]) / scale[1])
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), expected, atol=2e-3)


@pytest.mark.parametrize("multi_label", [False, True])
def test_weights_stay_moderate_whatever_the_scale_of_the_features(multi_label):
    validation = draw(400, 1, multi_label)
    solution = solve_head(draw(400, 0, multi_label), validation, 2 if multi_label else 3, CPU)
    # A feature that hardly varies gets no weight to speak of, instead of one that undoes its scale.
    assert solution.weight.abs().max() < 10
    assert solution.weight[:, 4].abs().max() < 1e-3
    other = solve_head(draw(400, 0, multi_label, 1e4), draw(400, 1, multi_label, 1e4), 2 if multi_label else 3, CPU)
    assert other.validation_loss == pytest.approx(solution.validation_loss, abs=1e-3)
    torch.testing.assert_close(other.weight * 1e4, solution.weight, rtol=0, atol=0.02)


def test_the_penalty_is_the_one_that_validation_likes_best():
    train, validation = draw(30, 0), draw(4000, 1)
    solution = solve_head(train, validation, 3, CPU)
    assert 1e-6 < solution.penalty < 100
    # Judged on what it was solved on, hardly any penalty is best.
    assert solve_head(train, train, 3, CPU).penalty < solution.penalty
    assert solution.train_loss < solution.validation_loss


def test_the_layout_of_the_weights_stays(tmp_path):
    for asked, layout in ((False, torch.contiguous_format), (True, torch.channels_last)):
        run = make_run(tmp_path / str(asked), "convnext", fit={"channels_last": asked})
        role_features(run.trainer, run.dataset, run.batches, run.args, "train")
        kernels = [module.weight for module in run.trainer.model.modules() if isinstance(module, torch.nn.Conv2d)]
        assert len(kernels) > 2
        assert all(kernel.is_contiguous(memory_format=layout) for kernel in kernels)


def test_several_labels_are_a_question_for_each_class():
    train, validation = draw(300, 0, multi_label=True), draw(300, 1, multi_label=True)
    both = solve_head(train, validation, 2, CPU)
    single = [
        solve_head(*(Features(part.values, part.labels[:, [k]], 0.0) for part in (train, train)), 1, CPU)
        for k in (0, 1)
    ]
    answers = validation.values @ both.weight.numpy().T + both.bias.numpy() > 0
    assert ((answers == validation.labels).mean(0) > 0.7).all()
    for k in (0, 1):  # the same direction as each class by itself
        cosine = torch.cosine_similarity(both.weight[k], single[k].weight[0], dim=0)
        assert cosine > 0.9


def test_features_are_kept_and_found_again(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    first = role_features(run.trainer, run.dataset, run.batches, run.args, "train")
    assert first.seconds > 0
    monkeypatch.setattr(run.trainer.model, "forward", None)  # whoever asked the backbone again would fail
    again = role_features(run.trainer, run.dataset, run.batches, run.args, "train")
    assert again.seconds == 0
    np.testing.assert_array_equal(first.values, again.values)
    assert first.values.shape == (96, 32)
    assert again.labels.tolist() == run.dataset.splits["train"]["label"]


def test_features_are_those_of_the_evaluation_images(tmp_path):
    cached, decoded = make_run(tmp_path / "a"), make_run(tmp_path / "b", data={"cache_decoded_images": "false"})
    values = [
        role_features(run.trainer, run.dataset, run.batches, run.args, "train").values for run in (cached, decoded)
    ]
    np.testing.assert_allclose(*values, atol=1e-5)
    by_hand = []
    head = find_linear_head(cached.trainer.model)
    head.register_forward_pre_hook(lambda module, inputs: by_hand.append(inputs[0].detach()))
    with torch.no_grad():
        for row in range(3):
            image = cached.dataset.splits["train"].cast_column("image", _decoded())[row]["image"].convert("RGB")
            pixels = cached.trainer.processing_class(image, return_tensors="pt")["pixel_values"]
            cached.trainer.model.eval()(pixel_values=pixels)
    np.testing.assert_allclose(torch.cat(by_hand).numpy(), values[0][:3], atol=1e-5)


def _decoded():
    from datasets import Image

    return Image()


def test_other_weights_pixels_or_images_have_other_features(tmp_path):
    def names(run):
        role_features(run.trainer, run.dataset, run.batches, run.args, "train")
        return {path.name for path in (tmp_path / "cache").rglob("features-*.npy")}

    run = make_run(tmp_path)
    first = names(run)
    with torch.no_grad():  # the head is no part of the backbone
        find_linear_head(run.trainer.model).weight.add_(1.0)
    assert names(run) == first
    digest = digest_backbone(run.trainer.model, find_linear_head(run.trainer.model))
    with torch.no_grad():
        next(run.trainer.model.parameters()).add_(1e-3)
    assert digest_backbone(run.trainer.model, find_linear_head(run.trainer.model)) != digest
    assert len(names(run)) == 2
    assert len(names(make_run(tmp_path, data={"image_mean": [0.1, 0.1, 0.1]}))) == 3
    other = make_run(tmp_path)
    other.dataset.splits["train"] = other.dataset.splits["train"].select(range(50))
    assert len(names(other)) == 4


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_the_head_is_found_whatever_it_is_called(family):
    model = AutoModelForImageClassification.from_config(
        AutoConfig.for_model(family, architectures=[], **TINY_CONFIGS[family])
    )
    assert find_linear_head(model).out_features == 2


def test_a_head_that_cannot_be_solved_for_is_refused():
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model("vit", **TINY_CONFIGS["vit"]))
    model.classifier = torch.nn.Linear(32, 2, bias=False)
    with pytest.raises(ModelError, match="consists of: Linear") as error:
        find_linear_head(model)
    assert "--adaptation head" in error.value.fix


def test_a_full_disk_says_what_is_needed(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "file").write_text("")
    args = dataclasses.replace(run.args, data=dataclasses.replace(run.args.data, cache_dir=str(tmp_path / "file")))
    with pytest.raises(DataError, match="cannot be kept") as error:
        role_features(run.trainer, run.dataset, run.batches, args, "train")
    assert "--cache_dir" in error.value.fix
