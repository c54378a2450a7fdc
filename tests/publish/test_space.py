"""The demo: its files, its push, and what its function answers, with no Gradio at hand."""

from __future__ import annotations

import py_compile

import pytest
import yaml
from publish.conftest import TOKEN, read_json

_CLASSIFY = """
import json, runpy, sys
demo = runpy.run_path({app!r})
assert "gradio" not in sys.modules
answer = demo["classify"]({image!r})
print(json.dumps([answer, demo["classify"](None)]))
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_demo_of_a_run(pushing, run):
    result = pushing.run_recipe(
        "push", run, "--hub_model_id", "me/digits", "--verify", "false", "--space", "me/digits-demo", "--publish_images"
    )
    space = pushing.hub.find("me/digits-demo", "space")
    assert space.token == TOKEN
    assert [space.titles[commit] for commit in space.history()] == ["Upload demo", "initial commit"]
    assert "me/digits is private: for the Space to load it" in result.stdout
    names = set(space.tree()) - {".gitattributes"}
    assert names == {
        "README.md", "app.py", "demo.json", "requirements.txt", "examples/1.png", "examples/2.png", "examples/3.png",
    }  # fmt: skip
    assert {path.relative_to(run / "space").as_posix() for path in (run / "space").rglob("*.*")} == names
    header = yaml.safe_load((run / "space" / "README.md").read_text().split("---\n")[1])
    assert (header["sdk"], header["app_file"], header["models"]) == ("gradio", "app.py", ["me/digits"])
    requirements = (run / "space" / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in requirements} >= {"transformers", "torch", "torchvision", "pillow<13"}
    assert not any("+" in line for line in requirements)
    about = read_json(run / "space" / "demo.json")
    assert about["model"] == "me/digits"
    assert all((run / "space" / name).is_file() for name in about["examples"])
    py_compile.compile(str(run / "space" / "app.py"), doraise=True)

    # What the demo answers is what the model on the Hub answers.
    code = _CLASSIFY.format(app=str(run / "space" / "app.py"), image=str(run / "space" / "examples" / "1.png"))
    answer, nothing = pushing.run_code(code)
    assert nothing == {}
    assert len(answer) == 5
    assert 0 < sum(answer.values()) <= 1
    assert set(answer) <= set(read_json(run / "data.json")["labels"])


def test_a_demo_alone(pushing, run, tmp_path):
    pushing.push(run, "--public")
    command = ("push", "--hub_model_id", "me/digits", "--space", "demo", "--public")
    shown = pushing.run_recipe(*command, "--dry_run")
    assert "Would push to the Space demo" in shown.stdout
    assert ("space", "me/demo") not in pushing.hub.repositories
    result = pushing.run_recipe(*command)
    assert "private" not in result.stdout
    space = pushing.hub.find("me/demo", "space")
    assert space.token is None
    pushing.hub.commit(space, {"README.md": b"---\ntitle: Mine\n---\n"}, title="By hand")
    refused = pushing.run_recipe(*command, check=False)
    assert refused.returncode == 2
    assert "somebody has edited README.md of the Space me/demo" in refused.stderr
    pushing.run_recipe(*command, "--overwrite_card")
    assert b"title: Mine" not in pushing.hub.read("me/demo", "README.md", repo_type="space")
    assert set(pushing.hub.find("me/demo", "space").tree()) == {
        ".gitattributes", "README.md", "app.py", "demo.json", "requirements.txt",
    }  # fmt: skip
