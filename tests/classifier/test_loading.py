"""One classifier object, with torch and without: from image files to the scores of named classes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import transformers
from measure.trained_models import digits_arguments, find_trained_model, load_digits
from pictures import encode, get_class, photo
from PIL import Image
from transformers import pipeline

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.classifier.decode import decode_image
from hf_imgcls.classifier.loading import Classifier, load_classifier
from hf_imgcls.classifier.runtimes import Runtime
from hf_imgcls.classifier.steps import Steps, load_steps, read_steps
from hf_imgcls.errors import ArgumentError, DataError, ModelError
from hf_imgcls.measure.score import score_folder
from hf_imgcls.records import READING_KEY, THRESHOLDS_KEY


@pytest.fixture(scope="module")
def vit():
    return find_trained_model("vit")


@pytest.fixture(scope="module")
def rows():
    return load_digits().splits["test"]


def test_it_answers_as_the_stock_pipeline_does(vit, rows):
    classifier = load_classifier(vit)
    files = [image["bytes"] for image in rows["image"][:9]]
    answers = classifier(files, top_k=3)
    expected = pipeline("image-classification", model=str(vit))([decode_image(file) for file in files], top_k=3)
    assert len(answers) == len(expected) == 9
    for answer, other in zip(answers, expected, strict=True):
        assert [item["label"] for item in answer] == [item["label"] for item in other]
        assert [item["score"] for item in answer] == pytest.approx([item["score"] for item in other], abs=1e-5)


def test_every_kind_of_source_and_batch_gives_the_same_scores(vit, rows, tmp_path):
    classifier = load_classifier(vit, batch_size=2)
    data = rows[0]["image"]["bytes"]
    path = tmp_path / "digit.png"
    path.write_bytes(data)
    sources = [data, str(path), path, Image.open(path), rows[0]["image"], {"bytes": None, "path": str(path)}]
    scores = classifier.scores(sources)
    assert scores.shape == (6, 10)
    assert scores.dtype == np.float32
    assert np.allclose(scores.sum(axis=1), 1)
    assert np.allclose(scores, scores[0], atol=1e-6)
    for source in sources:
        assert np.allclose(classifier.scores(source), scores[:1], atol=1e-6)
        assert [item["label"] for item in classifier(source)] == [item["label"] for item in classifier([source])[0]]
    assert classifier.scores([]).shape == (0, 10)
    assert classifier([]) == []
    assert len(classifier(data, top_k=20)) == 10
    with pytest.raises(DataError, match="cannot read"):
        classifier([data, b"no image"])


def test_its_scores_are_those_that_are_measured(vit, rows):
    classifier = load_classifier(vit)
    table = score_folder(classifier, load_digits(), digits_arguments()).table
    order = np.argsort(rows["sample_index"])
    scores = classifier.scores(rows["image"])[order]
    np.testing.assert_allclose(scores, table.scores_by_class().T, atol=1e-6)


def test_what_the_config_says_belongs_to_it(vit, rows, tmp_path):
    folder = shutil.copytree(vit, tmp_path / "copy")
    content = json.loads((folder / "config.json").read_text())
    thresholds = [0.1 * index for index in range(10)]
    content |= {
        "problem_type": "multi_label_classification", THRESHOLDS_KEY: thresholds,
        READING_KEY: {"alpha_background": "white", "intensity_range": [0, 4095]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    classifier = load_classifier(folder, data=DataArguments(max_image_pixels=1000, decoder="pillow"))
    assert classifier.labels == load_digits().labels
    assert classifier.is_multi_label
    assert classifier.thresholds.tolist() == thresholds
    assert classifier.reading.choices == content[READING_KEY]
    assert (classifier.reading.max_pixels, classifier.reading.decoder) == (1000, "pillow")
    logits = load_classifier(vit).logits(rows[0]["image"])
    np.testing.assert_allclose(classifier.scores(rows[0]["image"]), 1 / (1 + np.exp(-logits)), atol=1e-6)
    with pytest.raises(DataError, match="at most 1,000 pixels"):
        classifier(encode(photo(100, 100)))
    own = load_classifier(folder, data=DataArguments(alpha_background="black")).reading
    assert (own.alpha_background, own.intensity_range) == ("black", (0.0, 4095.0))  # arguments win
    content[THRESHOLDS_KEY] = [0.5, 2.0]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"{THRESHOLDS_KEY} in the config.json"):
        load_classifier(folder)


# --- preprocessing without torch ---

PROCESSORS = [
    *((name, {}) for name in (
        "ViTImageProcessor", "DeiTImageProcessor", "BeitImageProcessor", "BitImageProcessor", "CLIPImageProcessor",
        "SiglipImageProcessor", "MobileNetV1ImageProcessor", "MobileNetV2ImageProcessor", "PvtImageProcessor",
        "SegformerImageProcessor", "ConvNextImageProcessor", "LevitImageProcessor", "PoolFormerImageProcessor",
        "EfficientNetImageProcessor",
    )),
    *(("ConvNextImageProcessor", {"size": {"shortest_edge": edge}}) for edge in (64, 65)),
    ("EfficientNetImageProcessor", {"include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ("ViTImageProcessor", {"do_normalize": False}),
    ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}),
    ("BitImageProcessor", {"crop_size": {"height": 250, "width": 230}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), PROCESSORS)
def test_pillow_prepares_images_as_the_processor_does(name, options, tmp_path):
    """To two grey levels, by which torchvision's resizing is off."""
    processor = get_class(name)(**options)
    processor.save_pretrained(tmp_path)
    steps = load_steps(tmp_path, {"transformers_version": transformers.__version__})
    level = (steps.rescale_factor or 1.0) / min(steps.std or (1.0,))
    for size in ((300, 417), (417, 300), (90, 130), (256, 279), (224, 224)):
        image = photo(*size)
        expected = processor(images=[image], return_tensors="pt")["pixel_values"].numpy()
        ours = steps.normalize(steps.cut(image)[None])
        assert ours.shape == expected.shape
        assert ours.dtype == np.float32
        if steps.resample != Image.Resampling.NEAREST:
            assert np.abs(ours - expected).max() <= 2.01 * level
        assert np.abs(ours - expected).mean() <= 0.3 * level


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"image_processor_type": "MobileViTImageProcessorFast"}, "MobileViTImageProcessor"),
        ({"do_resize": False}, "do_resize False"),
        ({"do_pad": True}, "do_pad True"),
        ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "longest_edge"),
        ({"resample": 1}, "the filter 1"),
    ],
)
def test_what_cannot_be_repeated_is_refused(options, found):
    plain = get_class("ViTImageProcessor")().to_dict()
    assert isinstance(read_steps(plain), Steps)
    with pytest.raises(ModelError, match="cannot be repeated without torch") as error:
        read_steps(plain | options)
    assert found in error.value.found


# --- a runtime without torch ---


@pytest.fixture(scope="module")
def exported(vit, tmp_path_factory):
    """The folder of an ONNX model, as an export leaves it."""
    pytest.importorskip("onnxruntime")
    from hf_imgcls.compat.exporters import write_onnx
    from hf_imgcls.compat.models import keep_fast_processor

    folder = tmp_path_factory.mktemp("exported")
    classifier = load_classifier(vit)
    write_onnx(classifier.model, folder / "model.onnx", (32, 32), 18)
    classifier.model.config.save_pretrained(folder)
    classifier.processor.save_pretrained(folder)
    keep_fast_processor(classifier.processor, folder)
    return folder


def test_an_exported_model_is_the_same_classifier(vit, rows, exported):
    expected = load_classifier(vit).scores(rows["image"])
    with_torch = load_classifier(exported)
    assert isinstance(with_torch, Classifier)
    np.testing.assert_allclose(with_torch.scores(rows["image"]), expected, atol=1e-4)
    without = load_classifier(exported, without_torch=True)
    assert isinstance(without.model, Runtime)
    assert (without.labels, without.problem_type) == (with_torch.labels, with_torch.problem_type)
    np.testing.assert_allclose(without.scores(rows["image"]), expected, atol=2e-3)
    assert without(rows[0]["image"])[0]["label"] == with_torch(rows[0]["image"])[0]["label"]
    for classifier in (with_torch, without):
        with pytest.raises(ModelError, match="features of an exported model"):
            classifier.features(rows[0]["image"])


_ALONE = """
import builtins, json, sys

refused = {"torch", "torchvision", "transformers", "datasets", "onnx", "yaml", "scipy", "sklearn", "pyarrow"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in refused:
            raise ModuleNotFoundError(f"refused: {name}")

sys.meta_path.insert(0, Refuse())
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.errors import ModelError

classifier = load_classifier(sys.argv[1], without_torch=True)
scores = classifier.scores(sys.argv[2:])
try:
    load_classifier(sys.argv[1])
except ModelError as error:
    found = str(error)
print(json.dumps({"scores": scores.tolist(), "loaded": sorted(refused & set(sys.modules)), "found": found}))
"""


def test_neither_torch_nor_transformers_is_imported(exported, rows, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path, row in zip(paths, rows, strict=False):
        path.write_bytes(row["image"]["bytes"])
    command = [sys.executable, "-c", _ALONE, str(exported), *map(str, paths)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    answer = json.loads(result.stdout)
    assert answer["loaded"] == []
    assert "without_torch=True" in answer["found"]
    np.testing.assert_allclose(answer["scores"], load_classifier(exported).scores(paths), atol=2e-3)


def test_only_exported_models_run_without_torch(vit, exported):
    with pytest.raises(ModelError, match="holds no exported model"):
        load_classifier(vit, without_torch=True)
    with pytest.raises(ArgumentError, match="device 'cuda'"):
        load_classifier(exported, device="cuda", without_torch=True)
    with pytest.raises(ArgumentError, match="device 'cuda'"):
        load_classifier(exported, device="cuda")
