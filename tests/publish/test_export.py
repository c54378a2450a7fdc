"""Exports answer as the PyTorch model does, and what does not is never given a name."""

from __future__ import annotations

import ast
import dataclasses
import errno
import gc
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub import run_client, serve_hub
from measure.trained_models import digits_arguments, find_trained_model, load_digits
from PIL import Image
from places import REPOSITORY
from transformers import BeitImageProcessor, CLIPImageProcessor, ViTImageProcessor

from hf_imgcls.arguments.fields import EXPORT_FORMATS
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recall import find_run, recall_arguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.classifier.exported import load_exported
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.classifier.runtimes import OpenVino, find_exported_file, keep_signal_stack
from hf_imgcls.compat.models import TRANSFORMERS_MAJOR, load_image_processor
from hf_imgcls.data.calibration import read_calibration
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.errors import ArgumentError, ModelError, OutputError, ParityError
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.measure.report.write import read_report, write_report
from hf_imgcls.measure.score import score_folder
from hf_imgcls.publish.export import build, exporter
from hf_imgcls.publish.export.acceptance import compare_answers
from hf_imgcls.publish.export.build import WORK_FOLDER, export_model
from hf_imgcls.publish.export.description import describe_preprocessing
from hf_imgcls.publish.export.exclusion import exceeds_budget, exceeds_budget_perhaps, judge_budget
from hf_imgcls.publish.export.onnx_folding import finish_onnx
from hf_imgcls.publish.export.table import show_exports
from hf_imgcls.records import Estimate, ExportRecord

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")

TIMM = {
    "input_size": (3, 224, 224), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9,
    "crop_mode": "center",
}  # fmt: skip

NUM_TEST = 61


def arguments(folder, *flags):
    line = [
        "--dataset_name",
        "digits",
        "--image_size",
        "32",
        "--max_test_samples",
        str(NUM_TEST),
        "--model_type",
        "vit",
    ]
    return parse_arguments([*line, "--output_dir", str(folder), *map(str, flags)])


def copy_run(model_type, folder):
    """A folder as recipes/finetune.py leaves it."""
    shutil.copytree(find_trained_model(model_type), folder)
    args = arguments(folder)
    save_recipe(args, folder / "recipe.yaml")
    load_image_dataset(args.data).record.save(folder / "data.json")
    return folder


@pytest.fixture(scope="module", params=["vit", "convnext"])
def exported_run(request, tmp_path_factory):
    """A run with its exports, and the printed table."""
    folder = copy_run(request.param, tmp_path_factory.mktemp("exported") / request.param)
    formats = ["onnx", "openvino", "onnx_int8"]
    args = arguments(folder, "--export_formats", *formats, "--max_accuracy_drop", "0.05")
    assert export_model(folder, load_digits(), args, folder) == []
    return folder


@pytest.fixture
def run_folder(tmp_path):
    return copy_run("vit", tmp_path / "run")


def digit_pixels(folder, count):
    """Normalised real images as the model gets them, (count, 3, 32, 32)."""
    processor = load_image_processor(str(folder))
    plan = attach_transforms(load_digits(), processor, digits_arguments(), seed=0)
    return plan.eval_device_transform(plan.test[:count])["pixel_values"].clone()


# --- what is written ---


def load_both(folder):
    """The model and its processor."""
    classifier = load_classifier(folder)
    return classifier.model, classifier.processor


def test_each_format_has_a_whole_folder_and_nothing_else_is_left(exported_run):
    for name, file in (
        ("onnx", "model.onnx"),
        ("openvino", "openvino_model.xml"),
        ("onnx_int8", "model_quantized.onnx"),
    ):
        names = {path.name for path in (exported_run / name).iterdir()}
        assert {file, "config.json", "preprocessor_config.json", "export.json"} <= names
        record = ExportRecord.load(exported_run / name / "export.json")
        assert (record.format, record.path, record.num_examples) == (name, file, NUM_TEST)
    assert not (exported_run / WORK_FOLDER).exists()
    assert onnx.load(str(exported_run / "onnx" / "model.onnx")).opset_import[0].version == 18
    for path in (exported_run / "onnx" / "model.onnx", exported_run / "onnx_int8" / "model_quantized.onnx"):
        assert b"site-packages" not in path.read_bytes(), "paths of this machine"


def test_another_opset_than_asked_for_is_refused(exported_run, tmp_path):
    path = shutil.copy(exported_run / "onnx" / "model.onnx", tmp_path / "model.onnx")
    model, processor = load_both(exported_run)
    options = SimpleNamespace(fold_preprocessing=False, export_opset=18)
    source = SimpleNamespace(options=options, model=model, processor=processor, image_size=(32, 32))
    assert finish_onnx(path, source) == 18
    options.export_opset = 17
    with pytest.raises(ModelError, match="written with opset 18"):
        finish_onnx(path, source)


def test_files_describe_themselves(exported_run):
    import openvino

    labels = [str(digit) for digit in range(10)]
    about = []
    for file in ("onnx/model.onnx", "onnx_int8/model_quantized.onnx"):
        model = onnx.load(str(exported_run / file))
        about.append({entry.key: entry.value for entry in model.metadata_props})
        axes = [value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)]
        assert axes == ["batch", "batch"]
    model = openvino.Core().read_model(str(exported_run / "openvino" / "openvino_model.xml"))
    about.append({key: value.value for key, value in model.get_rt_info(["model_info"]).astype(dict).items()})
    processor = load_image_processor(str(exported_run))
    for found in about:
        assert json.loads(found["labels"]) == labels
        assert found["problem_type"] == "single_label_classification"
        assert found["input"].startswith("pixel_values: float32 (batch, 3, 32, 32)")
        steps = json.loads(found["preprocessing"])
        assert (steps["mean"], steps["std"]) == (list(processor.image_mean), list(processor.image_std))
        assert steps["rescale_factor"] == pytest.approx(1 / 255)
        assert json.loads(found["image_processor"])["image_mean"] == list(processor.image_mean)
        assert ExportRecord.load(exported_run / "onnx" / "export.json").preprocessing == steps


@pytest.mark.parametrize(
    ("processor", "is_known"),
    [
        (ViTImageProcessor(), True),
        (CLIPImageProcessor(), True),
        (ViTImageProcessor(do_resize=False), False),
        (CLIPImageProcessor(size={"shortest_edge": 224, "longest_edge": 448}), False),
        (BeitImageProcessor(do_resize=False), False),
        (SimpleNamespace(data_config=TIMM), True),
        (SimpleNamespace(data_config=TIMM | {"crop_mode": "squash"}), False),
        (SimpleNamespace(data_config=TIMM | {"crop_mode": "border"}), False),
    ],
)
def test_steps_that_are_not_the_usual_ones_are_not_described(processor, is_known):
    assert (describe_preprocessing(processor) is not None) is is_known


def test_the_cards_snippets_answer_as_the_model_does(exported_run, monkeypatch, capsys):
    """What a reader copies from the card runs, and says what a pipeline says of the same file."""
    from transformers import pipeline

    from hf_imgcls.publish.card import write_card

    blocks = re.findall(r"```python\n(.*?)```", write_card(exported_run).read_text(), flags=re.DOTALL)
    assert len(blocks) == 5  # the model itself, and each runtime with and without Optimum
    assert sum("optimum" in block for block in blocks) == 2
    monkeypatch.chdir(exported_run.parent)
    level = np.linspace(0, 255, 45 * 30 * 3).reshape(30, 45, 3).astype(np.uint8)
    Image.fromarray(level).save("picture.png")
    (best, *_) = pipeline("image-classification", model=str(exported_run))("picture.png")
    capsys.readouterr()
    for block in blocks:
        if "optimum" in block and TRANSFORMERS_MAJOR >= 5:
            continue  # Optimum needs 4.57
        exec(block, {})
        printed = capsys.readouterr().out
        if "pipeline" in block:
            first = ast.literal_eval(printed)[0]
            label, score = first["label"], first["score"]
        else:
            label, score = printed.split()
        assert label == best["label"]
        assert float(score) == pytest.approx(best["score"], abs=0.02)


def test_calibration_sees_every_class_and_leaves_out_no_image(run_folder):
    dataset, data = load_digits(), digits_arguments()
    ordered = dataset.splits["train"].sort("label").select(range(0, 1250, 25))  # as class folders are read
    dataset = dataclasses.replace(dataset, splits={"train": ordered})
    processor = load_image_processor(str(run_folder))
    batches = list(read_calibration(dataset, processor, data, 30))
    assert [len(batch) for batch in batches] == [6] * 5
    first = attach_transforms(dataclasses.replace(dataset, splits={"test": ordered}), processor, data, seed=0)
    pixels = first.eval_device_transform(first.test[: len(ordered)])["pixel_values"]
    rows = [int((pixels - torch.from_numpy(image)).abs().flatten(1).sum(1).argmin()) for image in batches[0]]
    assert len({ordered["label"][row] for row in rows}) > 2


def test_formats_of_a_run_that_does_not_train_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="export_formats with do_train false"):
        parse_arguments(
            ["--dataset_name", "digits", "--model_name_or_path", str(tmp_path), "--do_eval", "--do_train", "false",
             "--export_formats", "onnx"]
        )  # fmt: skip


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_float_exports_agree_at_any_batch_size(exported_run, name):
    model, processor = load_both(exported_run)
    exported = load_exported(exported_run / name, processor)
    pixels = digit_pixels(exported_run, 36)
    for part in (pixels[:1], pixels[1:4], pixels[4:36]):
        with torch.inference_mode():
            expected = model(pixel_values=part).logits.softmax(-1)
        answer = exported(pixel_values=part).logits.softmax(-1)
        assert answer.shape == expected.shape
        assert (answer - expected).abs().max() <= 1e-4
    record = ExportRecord.load(exported_run / name / "export.json")
    assert record.top1_agreement == 1.0
    assert record.max_probability_difference <= 1e-4
    assert record.accuracy_difference.value == 0
    assert (record.max_accuracy_drop, record.budget) == (None, "")


def test_what_is_measured_is_what_is_recorded(exported_run):
    record = ExportRecord.load(exported_run / "onnx_int8" / "export.json")
    score = score_folder(exported_run / "onnx_int8", load_digits(), digits_arguments())
    original = score_folder(exported_run, load_digits(), digits_arguments())
    assert record.accuracy.value == pytest.approx(score.metrics["accuracy"])
    difference = score.metrics["accuracy"] - original.metrics["accuracy"]
    assert record.accuracy_difference.value == pytest.approx(difference)
    assert record.accuracy_difference.value >= -0.05
    assert record.top1_agreement == pytest.approx(
        (score.examples.prediction == original.examples.prediction).mean(), abs=record.num_ties / NUM_TEST + 1e-9
    )
    assert record.max_probability_difference > 1e-4  # it is quantised
    graph = onnx.load(str(exported_run / "onnx_int8" / "model_quantized.onnx")).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 4
    assert record.latency["p95_ms"] >= record.latency["p50_ms"] > 0
    assert record.latency["pytorch_p50_ms"] > 0
    assert record.throughput["images_per_s"] > 0
    assert record.threads == torch.get_num_threads()


@pytest.mark.skipif(TRANSFORMERS_MAJOR >= 5, reason="Optimum needs transformers 4")
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_stock_classes_load_it_inside_the_stock_pipeline(exported_run, name):
    from optimum.intel import OVModelForImageClassification
    from optimum.onnxruntime import ORTModelForImageClassification
    from transformers import pipeline

    if name == "onnx":
        model = ORTModelForImageClassification.from_pretrained(str(exported_run), subfolder=name)
    else:  # in bfloat16 where the CPU has it, unless told not to
        precision = {"INFERENCE_PRECISION_HINT": "f32"}
        model = OVModelForImageClassification.from_pretrained(str(exported_run), subfolder=name, ov_config=precision)
    classifier = pipeline("image-classification", model=model, image_processor=str(exported_run / name))
    original = pipeline("image-classification", model=str(exported_run))
    generator = np.random.default_rng(0)
    for _ in range(3):
        image = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        (first, *_), (expected, *_) = classifier(image), original(image)
        assert first["label"] == expected["label"]
        assert first["score"] == pytest.approx(expected["score"], abs=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO changes the signal stack on Linux only")
def test_signals_are_handled_after_openvino_models_have_gone(tmp_path):
    import openvino
    import openvino.opset13 as ops

    image = ops.parameter([-1, 3, 4, 4], np.float32)
    openvino.save_model(openvino.Model([ops.relu(image)], [image]), str(tmp_path / "model.xml"))
    older, younger = (OpenVino(tmp_path / "model.xml", 1) for _ in range(2))
    del older
    gc.collect()
    del younger
    gc.collect()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    child = os.fork()  # has this thread's signal stack, and is the one to die of it
    if child == 0:
        signal.raise_signal(signal.SIGUSR1)
        os._exit(0)
    signal.signal(signal.SIGUSR1, before)
    assert os.waitpid(child, 0)[1] == 0


def test_folded_preprocessing_takes_pixels_and_gives_probabilities(run_folder):
    args = arguments(run_folder, "--export_formats", "onnx", "openvino", "--fold_preprocessing")
    assert export_model(run_folder, load_digits(), args, run_folder) == []
    assert not (run_folder / "onnx").exists()
    model, processor = load_both(run_folder)
    levels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in levels]
    with torch.inference_mode():
        pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
        expected = model(pixel_values=pixel_values).logits.softmax(-1).numpy()
    session = onnxruntime.InferenceSession(str(run_folder / "onnx_folded" / "model.onnx"))
    (probabilities,) = session.run(["probabilities"], {"image": levels})
    assert np.abs(probabilities - expected).max() < 1e-5
    import openvino

    with keep_signal_stack():
        compiled = openvino.Core().compile_model(
            str(run_folder / "openvino_folded" / "openvino_model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
    assert np.abs(compiled({"image": levels})["probabilities"] - expected).max() < 1e-5


def test_the_table_and_the_picture_show_all_exports(exported_run, capsys):
    pytest.importorskip("matplotlib")
    records = show_exports(exported_run)
    assert [record.format for record in records] == ["onnx", "onnx_int8", "openvino"]
    out = capsys.readouterr().out
    for record in records:
        assert f"{record.accuracy.value:.4f}" in out
        assert f"{record.latency['p50_ms']:.2f}" in out
    with Image.open(exported_run / "exports.png") as picture:
        assert picture.width > 300


def test_the_report_has_a_row_for_each_export(exported_run):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    score = score_folder(exported_run, load_digits(), digits_arguments())
    score.table.save(exported_run / "predictions_test.parquet")
    write_report(summarise(score.table, seed=0), exported_run, table=score.table, dataset=load_digits().splits["test"])
    show_exports(exported_run)
    report = read_report(exported_run)
    assert [row["format"] for row in report.exports] == ["onnx", "onnx_int8", "openvino"]
    record = ExportRecord.load(exported_run / "onnx" / "export.json")
    assert report.exports[0]["p50_ms"] == record.latency["p50_ms"]
    page = (exported_run / "report" / "report.html").read_text()
    assert "Exported models, each measured" in page
    assert page.count('<th scope="row">onnx<small>') == 1
    assert report.gallery  # what the page showed before, it shows still
    show_exports(exported_run)
    assert (exported_run / "report" / "report.html").read_text() == page


def test_opset_and_calibration_are_as_asked(exported_run, run_folder):
    flags = ("--export_opset", "17", "--calibration_method", "percentile", "--calibration_samples", "40")
    args = arguments(run_folder, "--export_formats", "onnx_int8", "--max_accuracy_drop", "0.2", *flags)
    assert export_model(run_folder, load_digits(), args, run_folder) == []
    record = ExportRecord.load(run_folder / "onnx_int8" / "export.json")
    assert record.opset == 17
    assert "percentile, 40 training images" in record.precision
    model = onnx.load(str(run_folder / "onnx_int8" / "model_quantized.onnx"))
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 17
    if "vit" in exported_run.name:
        other = onnx.load(str(exported_run / "onnx_int8" / "model_quantized.onnx"))
        first, second = (
            {item.name: onnx.numpy_helper.to_array(item) for item in each.graph.initializer if "scale" in item.name}
            for each in (model, other)
        )
        names = first.keys() & second.keys()
        assert names
        assert any(not np.array_equal(first[name], second[name]) for name in names)


def check_torch_programs(folder, *formats):
    args = arguments(folder, "--export_formats", *formats)
    assert export_model(folder, load_digits(), args, folder) == []
    model, processor = load_both(folder)
    pixels = digit_pixels(folder, 36)
    for name in formats:
        with pytest.raises(ModelError, match="runs code"):
            load_exported(folder / name, processor)
        exported = load_exported(folder / name, processor, is_trusted=True)
        for part in (pixels[:1], pixels[1:4], pixels[4:36]):
            with torch.inference_mode():
                expected = model(pixel_values=part).logits
            torch.testing.assert_close(exported(pixel_values=part).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["vit", "convnext"])
def test_programs_of_torch(tmp_path, model_type):
    check_torch_programs(copy_run(model_type, tmp_path / "run"), "torch_export", "torchscript")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.exhaustive
def test_a_compiled_program_of_torch(run_folder):
    check_torch_programs(run_folder, "aot_inductor")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["vit", "convnext"])
@pytest.mark.parametrize(("name", "module"), [("executorch", "executorch.runtime"), ("tflite", "litert_torch")])
def test_programs_for_phones(tmp_path, model_type, name, module):
    pytest.importorskip(module)
    folder = copy_run(model_type, tmp_path / "run")
    args = arguments(folder, "--export_formats", name)
    assert export_model(folder, load_digits(), args, folder) == []
    record = ExportRecord.load(folder / name / "export.json")
    assert (record.top1_agreement, record.num_examples) == (1.0, NUM_TEST)
    model, processor = load_both(folder)
    pixels = digit_pixels(folder, 5)
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits
    answer = load_exported(folder / name, processor)(pixel_values=pixels).logits
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)


# --- the gate ---


def test_an_export_with_other_weights_is_refused_and_leaves_nothing(run_folder, monkeypatch):
    right = exporter.write_onnx

    def write_with_other_weights(model, *args):
        with torch.no_grad():
            bias = model.get_parameter("classifier.bias")
            bias[3] += 5
            right(model, *args)
            bias[3] -= 5

    (run_folder / "onnx").mkdir()
    (run_folder / "onnx" / "export.json").write_text("{}")  # an export of earlier weights
    monkeypatch.setattr(exporter, "write_onnx", write_with_other_weights)
    args = arguments(run_folder, "--export_formats", "onnx", "openvino", "onnx_int8", "--max_accuracy_drop", "0.01")
    failures = export_model(run_folder, load_digits(), args, run_folder)
    assert [type(failure) for failure in failures] == [ParityError, ParityError]
    assert "onnx answers otherwise than the PyTorch model on" in failures[0].found
    assert "sample_index" in failures[0].found
    assert "lose" in failures[1].found
    assert (run_folder / "openvino" / "export.json").exists()  # the right one is kept
    assert not any((run_folder / name).exists() for name in ("onnx", "onnx_int8", WORK_FOLDER))


def test_compare_answers_knows_ties_from_differences():
    table = score_folder(find_trained_model("vit"), load_digits(), digits_arguments()).table
    same = compare_answers(table, table, 1e-4)
    assert (same.others, same.num_ties, same.max_probability) == ([], 0, 0.0)
    other = dataclasses.replace(
        table, top_classes=table.top_classes.copy(), top_probabilities=table.top_probabilities.copy(),
        prediction=table.prediction.copy(),
    )  # fmt: skip
    for row, gap in ((0, 5e-5), (1, 0.2)):
        other.top_classes[row, :2] = table.top_classes[row, [1, 0]]
        other.prediction[row] = other.top_classes[row, 0]
        other.top_probabilities[row, :2] = 0.4 + gap, 0.4
    found = compare_answers(table, other, 1e-4)
    assert (found.others, found.num_ties) == ([1], 1)
    assert found.max_probability > 0.01


@pytest.mark.parametrize(
    ("value", "low", "high", "exceeds", "verdict"),
    [
        (0.0, -0.004, 0.004, False, "met"),
        (-0.003, -0.02, 0.01, False, "not distinguishable"),
        (-0.03, -0.05, 0.0, True, "not distinguishable"),
        (-0.03, -0.05, -0.01, True, "not met"),
    ],
)
def test_the_budget(value, low, high, exceeds, verdict):
    drop = Estimate(value, low, high, 100, "bootstrap")
    assert exceeds_budget(drop, 0.005) is exceeds
    assert exceeds_budget_perhaps(drop, 0.005) is (verdict != "met")
    assert judge_budget(drop, 0.005) == verdict


def test_layers_stay_in_float_until_the_budget_is_met(run_folder, monkeypatch):
    """A planted loss that ends when the first convolution is left alone."""
    seen = []

    def planted_drop(source, tables, score, folder):
        path, _ = find_exported_file(folder)
        graph = onnx.load(str(path)).graph
        made_by = {output: node.op_type for node in graph.node for output in node.output}
        convolution = next(node for node in graph.node if node.op_type == "Conv")
        is_float = made_by.get(convolution.input[1]) != "DequantizeLinear"
        seen.append(is_float)
        value = 0.0 if is_float else -0.1
        return Estimate(value, value - 0.02, value + 0.02, 270, "bootstrap")

    monkeypatch.setattr(build, "_measure_drop", planted_drop)
    args = arguments(run_folder, "--export_formats", "onnx_int8", "--max_accuracy_drop", "0.05")
    assert export_model(run_folder, load_digits(), args, run_folder) == []
    record = ExportRecord.load(run_folder / "onnx_int8" / "export.json")
    layers = [name for name in record.float_layers if "conv" in name.lower()]
    assert len(layers) == 1
    assert record.float_layers[-1] == layers[0]  # no more than is needed
    assert seen[0] is False
    assert seen[-1] is True or len(seen) > 2


# --- faults ---


def test_weights_outside_the_folder_are_refused(exported_run, tmp_path):
    shutil.copytree(exported_run / "onnx", tmp_path / "run" / "onnx")
    path = tmp_path / "run" / "onnx" / "model.onnx"
    _, processor = load_both(exported_run)
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin"):
        (tmp_path / "run" / "secret.bin").write_bytes(bytes(10**6))
        (tmp_path / "secret.bin").write_bytes(bytes(10**6))
        (path.parent / "link.bin").unlink(missing_ok=True)
        (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
        model = onnx.load(str(exported_run / "onnx" / "model.onnx"))
        tensor = next(item for item in model.graph.initializer if item.raw_data)
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="outside its folder"):
            load_exported(path.parent, processor)


def test_damaged_and_missing_files_are_one_clear_error(exported_run, tmp_path):
    _, processor = load_both(exported_run)
    for name, file in (("onnx", "model.onnx"), ("openvino", "openvino_model.xml")):
        folder = shutil.copytree(exported_run / name, tmp_path / name)
        (folder / file).write_bytes((folder / file).read_bytes()[:1000])
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_exported(folder, processor)
    with pytest.raises(ModelError, match="holds no exported model"):
        load_exported(tmp_path, processor)
    shutil.copy(exported_run / "onnx" / "model.onnx", tmp_path / "onnx" / "second.onnx")
    with pytest.raises(ModelError, match="holds 2 exported models"):
        find_exported_file(tmp_path / "onnx")


def test_a_full_disk_leaves_nothing(run_folder, monkeypatch):
    def fail(model, path, *args):
        path.write_bytes(b"half a model")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(exporter, "write_onnx", fail)
    before = sorted(path.name for path in run_folder.iterdir())
    args = arguments(run_folder, "--export_formats", "onnx", "onnx")
    failures = export_model(run_folder, load_digits(), args, run_folder)
    assert [type(failure) for failure in failures] == [OutputError]
    assert "the disk is full" in str(failures[0])
    assert sorted(path.name for path in run_folder.iterdir()) == before


def test_a_folder_of_somebody_else_is_not_replaced(run_folder):
    (run_folder / "onnx").mkdir()
    (run_folder / "onnx" / "thesis.tex").write_text("...")
    with pytest.raises(OutputError, match="is no export of ours"):
        export_model(run_folder, load_digits(), arguments(run_folder, "--export_formats", "onnx"), run_folder)
    assert [path.name for path in (run_folder / "onnx").iterdir()] == ["thesis.tex"]


KILLED = """
import os, signal, sys
from hf_imgcls.publish.export import build
build.measure_export = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
import runpy
sys.argv = ["export.py", *sys.argv[2:]]
runpy.run_path(os.environ["RECIPE"], run_name="__main__")
"""


@pytest.mark.slow
def test_kill_9_leaves_nothing_under_the_final_name_and_the_next_export_is_whole(run_folder, monkeypatch):
    recipe = str(REPOSITORY / "recipes" / "export.py")
    command = [sys.executable, "-c", KILLED, "-", str(run_folder), "--formats", "onnx"]
    done = subprocess.run(command, env={**os.environ, "RECIPE": recipe}, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (run_folder / WORK_FOLDER / "results" / "onnx" / "model.onnx").exists()
    assert not (run_folder / "onnx").exists()
    monkeypatch.setattr(sys, "argv", ["export.py", str(run_folder), "--formats", "onnx"])
    runpy.run_path(recipe, run_name="__main__")
    assert ExportRecord.load(run_folder / "onnx" / "export.json").top1_agreement == 1.0
    assert not (run_folder / WORK_FOLDER).exists()


# --- the command ---


def test_an_exported_folder_recalls_its_run(exported_run):
    assert find_run(exported_run / "onnx") == exported_run
    assert find_run(exported_run) == exported_run
    line = recall_arguments(["--model_name_or_path", str(exported_run / "onnx")])
    assert line[:2] == ["--config", str(exported_run / "recipe.yaml")]


def test_measure_takes_an_exported_folder(exported_run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--model_name_or_path", str(exported_run / "onnx_int8"), "--report", "false"]
    monkeypatch.setattr(sys, "argv", ["measure.py", *flags])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / "recipes" / "measure.py"), run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().err
    folder = tmp_path / "outputs" / f"digits_onnx_int8_of_{exported_run.name}_measured"
    record = ExportRecord.load(exported_run / "onnx_int8" / "export.json")
    assert json.loads((folder / "test_results.json").read_text())["test_accuracy"] == pytest.approx(
        record.accuracy.value
    )
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["top1_agreement"] == 1.0
    assert ("ORTModelForImageClassification" in parity["consumer"]) is (TRANSFORMERS_MAJOR < 5)


def test_the_formats_there_are(tmp_path):
    assert exporter.FORMATS == EXPORT_FORMATS
    for name in EXPORT_FORMATS:
        assert isinstance(exporter.find_exporter(name), exporter.Exporter)
    with pytest.raises(ArgumentError, match="did you mean onnx_int8"):
        arguments(tmp_path, "--export_formats", "onnx_in8")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dataset_name", "digits"], "no model is named"),
        (["RUN"], "no format is named"),
        (["RUN", "--formats", "onnxx"], "did you mean onnx"),
        (["some/model", "--dataset_name", "digits", "--formats", "onnx"], "is no folder to export into"),
        (["RUN", "--formats", "onnx", "--learning_rate", "1"], "is not an argument of this command"),
    ],
)
def test_mistakes_are_said_in_one_line(run_folder, monkeypatch, capsys, argv, words):
    monkeypatch.setattr(sys, "argv", ["export.py", *(str(run_folder) if word == "RUN" else word for word in argv)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / "recipes" / "export.py"), run_name="__main__")
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_learned_ranges_come_from_the_same_commit_of_a_private_repository(tmp_path):
    code = """
import json
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.publish.export.build import find_quantizers

def read(name, *flags):
    args = parse_arguments(["--dataset_name", "digits", "--token", "hf_key", *flags])
    path = find_quantizers(name, args)
    return path and path.read_bytes().decode()

first = read("org/secret", "--model_name_or_path", "org/secret", "--model_revision", "{first}")
newest = read("org/secret", "--model_name_or_path", "org/secret")
print(json.dumps([first, newest, read("org/plain", "--model_name_or_path", "org/plain")]))
"""
    model = {"config.json": b"{}", "model.safetensors": b"0" * 10}
    with serve_hub(tmp_path) as hub:
        secret = hub.create_repository("model", "org/secret", token="hf_key")
        first = hub.commit(secret, {**model, "quantizers.safetensors": b"old"})
        hub.commit(secret, {"quantizers.safetensors": b"new"})
        hub.commit(hub.create_repository("model", "org/plain"), model)
        assert run_client(code.replace("{first}", first), hub, tmp_path / "home") == ["old", "new", None]
