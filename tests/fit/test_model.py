"""Models: heads follow class names, sizes follow the processor, and what is saved is what a consumer gets."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from tiny_models import TINY_CONFIGS
from transformers import pipeline

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.classifier.head import head_parameter_names
from hf_imgcls.errors import ModelError
from hf_imgcls.fit.head_rows import match_rows, pick_rows
from hf_imgcls.fit.model import build_model, check_model

LABELS = ["ant", "bee", "cat", "dog"]


def build_scratch(model_type="vit", labels=LABELS, image_size=32, **config):
    fit = FitArguments(model_type=model_type, model_config={**TINY_CONFIGS.get(model_type, {}), **config})
    return build_model(fit, DataArguments(image_size=image_size), labels)


def reload(folder, labels=LABELS, **data):
    return build_model(FitArguments(model_name_or_path=str(folder)), DataArguments(**data), labels)


@pytest.fixture(params=sorted(TINY_CONFIGS))
def saved(request, tmp_path):
    """A saved model of each family, with the model itself."""
    torch.manual_seed(0)
    model, processor = build_scratch(request.param)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path, model.eval()


@pytest.fixture
def saved_vit(tmp_path):
    torch.manual_seed(0)
    model, processor = build_scratch("vit")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path, model.eval()


def test_the_same_classes_keep_the_head_and_another_order_moves_its_rows(saved):
    folder, model = saved
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = model(images).logits
        same = reload(folder)[0].eval()(images).logits
        moved = reload(folder, LABELS[::-1])[0].eval()(images).logits
    torch.testing.assert_close(same, expected)
    torch.testing.assert_close(moved, expected.flip(1))


def test_other_classes_replace_the_head_and_nothing_else(saved):
    folder, model = saved
    head = head_parameter_names(model.config)
    assert head
    for labels in (["w", "x", "y", "z"], ["a", "b", "c"]):  # the first has the same shape: it must be new all the same
        new = reload(folder, labels)[0]
        assert list(new.config.id2label.values()) == labels
        for name, tensor in new.state_dict().items():
            if name not in head:
                torch.testing.assert_close(tensor, model.state_dict()[name])
        weight = next(name for name in head if name.endswith("weight"))
        old = model.state_dict()[weight]
        assert new.state_dict()[weight].shape[0] == len(labels)
        assert old.shape[0] != len(labels) or not torch.equal(new.state_dict()[weight], old)


def test_classes_with_the_same_name_keep_their_rows_and_score_as_before(saved, caplog):
    folder, model = saved
    images = torch.rand(3, 3, 32, 32)
    labels = [" Dog", "zebra", "ant", "CAT", "bee"]
    with torch.no_grad():
        expected, logits = (net.eval()(images).logits for net in (model, reload(folder, labels)[0]))
    assert logits.shape == (3, 5)
    torch.testing.assert_close(logits[:, [0, 2, 3, 4]], expected[:, [3, 0, 2, 1]])
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("hf_imgcls.fit")]
    assert messages == ["4 of 5 classes keep their head rows, by name; new: 'zebra'."]


def test_fewer_classes_keep_their_rows(saved_vit, caplog):
    folder, model = saved_vit
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            reload(folder, ["dog", "ant"])[0].eval()(images).logits, model(images).logits[:, [3, 0]]
        )
    assert "All 2 classes keep their head rows" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "rows"),
    [
        (["a", "b"], ["a", "b"], [0, 1]),
        (["a", "A"], ["A", "a"], [1, 0]),  # exact names first
        (["a", "A"], ["A", " a"], [1, 0]),
        (["a", "A"], ["x", "a "], [None, None]),  # it could be either
        (["a b"], ["A  B", "a\tb"], [None, None]),
        (["crane", "crane", "dog"], ["crane", "dog"], [None, 2]),
        (["LABEL_0", "LABEL_1"], ["LABEL_0", "dog"], [None, None]),
        (["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1"], [0, 1]),
    ],
)
def test_rows_match_by_name_where_it_is_not_ambiguous(old, new, rows):
    assert match_rows(old, new) == rows


def test_rows_of_a_convolutional_head_are_picked_too():
    trained, fresh = torch.arange(8.0).reshape(4, 2, 1, 1), -torch.ones(3, 2, 1, 1)
    assert pick_rows(trained, fresh, [3, None, 0]).flatten().tolist() == [6, 7, -1, -1, 0, 1]


def test_a_replaced_head_says_so_in_one_line(saved_vit, caplog):
    reload(saved_vit[0], ["x", "y"])
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("hf_imgcls")]
    assert len(messages) == 1
    assert "New head" in messages[0]
    assert "4 other classes" in messages[0]


def test_labels_are_saved_as_ints_and_strings_and_served_by_name(saved):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    if "id2label" in config:
        assert config["label2id"] == {name: index for index, name in enumerate(LABELS)}
    answers = pipeline("image-classification", model=str(folder))(Image.new("RGB", (40, 50), "red"))
    assert {answer["label"] for answer in answers} <= set(LABELS)


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2", "convnext", "beit"])
def test_another_image_size_is_saved_for_plain_pipeline(model_type, tmp_path):
    torch.manual_seed(0)
    model, processor = build_scratch(model_type)
    model.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    larger, processor = reload(tmp_path / "small", image_size=64)
    larger.save_pretrained(tmp_path / "large")
    processor.save_pretrained(tmp_path / "large")
    assert json.loads((tmp_path / "large" / "preprocessor_config.json").read_text())["size"]["height"] == 64
    answers = pipeline("image-classification", model=str(tmp_path / "large"))(Image.new("RGB", (40, 50), "red"))
    assert len(answers) == len(LABELS)
    embeddings = [name for name, _ in larger.named_parameters() if name.endswith("position_embeddings")]
    assert bool(embeddings) == (model_type in ("vit", "deit", "dinov2"))
    for name in embeddings:
        old, new = model.state_dict()[name], larger.state_dict()[name]
        prefix = {"deit": 2}.get(model_type, 1)
        torch.testing.assert_close(new[:, :prefix], old[:, :prefix])
        assert new.shape[1] == prefix + 64
        # Resampling a smooth map keeps its mean; a reinitialised one would not.
        torch.testing.assert_close(new[:, prefix:].mean(1), old[:, prefix:].mean(1), atol=2e-3, rtol=0)


def test_timm_models_keep_names_size_and_normalisation(tmp_path):
    pytest.importorskip("timm")
    fit = FitArguments(model_type="timm_wrapper", model_config={"architecture": "test_vit"})
    data = DataArguments(image_size=64, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    model, processor = build_model(fit, data, ["zero", "one"])
    assert processor(Image.new("RGB", (9, 9)), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    model.save_pretrained(tmp_path / "a")
    # A new head: without correction the old names are what is saved.
    other = reload(tmp_path / "a", ["x", "y", "z"])[0]
    other.save_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["label_names"] == ["x", "y", "z"]
    assert config["pretrained_cfg"]["mean"] == [0.1, 0.2, 0.3]
    answers = pipeline("image-classification", model=str(tmp_path / "b"))(Image.new("RGB", (40, 50), "red"))
    assert {answer["label"] for answer in answers} == {"x", "y", "z"}
    more, images = reload(tmp_path / "b", ["z", "w", "x", "y"])[0], torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before, after = (net.eval()(images).logits for net in (other, more))
    torch.testing.assert_close(after[:, [2, 3, 0]], before)


def test_mean_and_std_reach_the_saved_processor(saved_vit, tmp_path):
    _, processor = reload(saved_vit[0], image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "preprocessor_config.json").read_text())
    assert saved["image_mean"] == [0.1, 0.2, 0.3]
    assert saved["image_std"] == [0.4, 0.5, 0.6]


def test_resizing_keeps_the_proportion_of_edge_and_crop(tmp_path, saved_vit):
    from transformers import CLIPImageProcessor

    CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(saved_vit[0])
    _, processor = reload(saved_vit[0], image_size=64)
    assert dict(processor.size) == {"shortest_edge": 80}
    assert processor(Image.new("RGB", (100, 90)), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("fit", "data", "found", "fix"),
    [
        ({"model_type": "vitt"}, {}, "'vitt'", "vit"),
        ({"model_type": "vit", "model_config": {"hiden_size": 8}}, {}, "hiden_size", "hidden_size"),
        ({"model_type": "vit", "model_config": {"patch_size": 5}}, {"image_size": 32}, "32", "--image_size 35"),
        ({"model_type": "convnext", "model_config": {"depths": [1, 1]}}, {}, "depths", "model_config"),
        ({"model_type": "timm_wrapper", "model_config": {"architecture": "tst_vit"}}, {}, "tst_vit", "test_vit"),
        ({"model_name_or_path": "no/such-model"}, {}, "no/such-model", "--model_type"),
    ],
)
def test_models_that_cannot_be_built_say_why(fit, data, found, fix):
    if "timm" in str(fit):
        pytest.importorskip("timm")
    with pytest.raises(ModelError) as error:
        build_model(FitArguments(**fit), DataArguments(**data), LABELS)
    assert found in error.value.found
    assert fix in error.value.fix


def test_a_checkpoint_without_the_backbone_is_refused(saved_vit):
    from safetensors.torch import load_file, save_file

    path = saved_vit[0] / "model.safetensors"
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if "position_embeddings" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="position_embeddings"):
        reload(saved_vit[0])


def test_damaged_weights_are_refused(saved_vit):
    path = saved_vit[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="could not be loaded"):
        reload(saved_vit[0])


def test_what_needs_no_classes_is_checked_before_any_data(saved_vit, tmp_path):
    from transformers import BertConfig

    check_model(FitArguments(model_name_or_path=str(saved_vit[0])), DataArguments())
    with pytest.raises(ModelError, match="not a multiple of the patch size"):
        check_model(FitArguments(model_name_or_path=str(saved_vit[0])), DataArguments(image_size=33))
    with pytest.raises(ModelError, match="vitt"):
        check_model(FitArguments(model_type="vitt"), DataArguments())
    BertConfig().save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a bert, which transformers has no image classifier for"):
        check_model(FitArguments(model_name_or_path=str(tmp_path / "bert")), DataArguments())


def test_pickled_weights_are_refused(saved_vit):
    folder, model = saved_vit
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        reload(folder)
