"""What a run records about its model: sizes with and without adapters, and the licence that its base states."""

from __future__ import annotations

import textwrap

import pytest
from hub import run_client, serve_hub
from tiny_models import TINY_CONFIGS

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.model import build_model
from hf_imgcls.publish.base_model import describe_model

LABELS = ["cat", "dog", "owl"]
CARD = "---\nlicense: cc-by-nc-4.0\nmodel-index: 7\n---\n\n# base\n"


@pytest.fixture
def base(tmp_path):
    fit = FitArguments(model_type="vit", model_config=TINY_CONFIGS["vit"])
    data = DataArguments(image_size=32)
    model, processor = build_model(fit, data, LABELS)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_from_scratch(base):
    fit = FitArguments(model_type="vit", model_config=TINY_CONFIGS["vit"])
    model, _ = build_model(fit, DataArguments(image_size=32), LABELS)
    record = describe_model(model, fit, DataArguments())
    assert record.architecture == "ViTForImageClassification"
    assert record.num_parameters == record.num_trainable_parameters == model.num_parameters()
    assert record.base_license is None


@pytest.mark.parametrize("adaptation", ["full", "head", "lora"])
def test_sizes_are_those_of_the_saved_model_and_of_what_learns(base, adaptation):
    if adaptation == "lora":
        pytest.importorskip("peft")
    fit = FitArguments(model_name_or_path=str(base), adaptation=adaptation)
    model, _ = build_model(fit, DataArguments(), LABELS)
    total, head = model.num_parameters(), 3 * 32 + 3
    record = describe_model(adapt_model(model, fit), fit, DataArguments())
    assert record.num_parameters == total
    # Rank 8 beside query and value of two layers: 2 x 8 x 32 for each.
    expected = {"full": total, "head": head, "lora": head + 2 * 2 * 2 * 8 * 32}
    assert record.num_trainable_parameters == expected[adaptation]


def test_a_folders_own_card_is_read(base):
    fit = FitArguments(model_name_or_path=str(base))
    model, _ = build_model(fit, DataArguments(), LABELS)
    assert describe_model(model, fit, DataArguments()).base_license is None
    (base / "README.md").write_text(CARD)
    assert describe_model(model, fit, DataArguments()).base_license == "cc-by-nc-4.0"
    for broken in ("---\nlicense: [\n---\n", "---\nlicense: [mit, apache-2.0]\n---\n", "---\n- a\n---\n"):
        (base / "README.md").write_text(broken)
        assert describe_model(model, fit, DataArguments()).base_license is None


def test_a_model_of_the_hub_is_recorded_with_its_commit_and_licence(base, tmp_path):
    with serve_hub(tmp_path / "hub") as hub:
        files = {path.name: path for path in base.iterdir()}
        (base / "README.md").write_text(CARD)
        stated = hub.commit(hub.create_repository("model", "org/stated"), {**files, "README.md": base / "README.md"})
        silent = hub.commit(hub.create_repository("model", "org/silent"), files)
        code = textwrap.dedent(
            """
            import json
            from hf_imgcls.arguments.fields import DataArguments
            from hf_imgcls.classifier.source import find_commit
            from hf_imgcls.publish.base_model import read_license
            found = {}
            for name in ("org/stated", "org/silent"):
                commit = find_commit(name, DataArguments(), "main")
                found[name] = [commit, read_license(name, commit, DataArguments())]
            print(json.dumps(found))
            """
        )
        found = run_client(code, hub, tmp_path / "home", timeout_s=300)
    assert found == {
        "org/stated": [stated, {"license": "cc-by-nc-4.0"}],
        "org/silent": [silent, {}],
    }
