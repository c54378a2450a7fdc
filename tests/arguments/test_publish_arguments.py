"""What can be known to be wrong with a card is said before training, with everything else that is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recipe import to_recipe
from hf_imgcls.errors import ArgumentError


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--license", "Apache-2"), ("license is 'Apache-2'", "apache-2.0")),
        (("--license", "other"), ("license other without", "--license_link")),
        (("--license", "other", "--license_name", "x", "--license_link", "my terms"), ("license_link is 'my terms'",)),
        (("--license", "mit", "--license_name", "x"), ("license_name with license mit",)),
        (("--card_notes", "nowhere.md"), ("card_notes is 'nowhere.md'", "No such file")),
        (("--hub_model_id", "me/my model"), ("hub_model_id is 'me/my model'", "owner/name")),
    ],
)
def test_a_mistake_is_named_with_what_to_do(flags, words):
    with pytest.raises(ArgumentError) as error:
        parse_arguments(["--dataset_name", "digits", *flags])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["---\nlicense: mit\n---\n", "More Information Needed", b"\xff\xfe"])
def test_notes_that_cannot_stand_in_a_card_are_refused(tmp_path, text):
    (tmp_path / "notes.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ArgumentError, match="card_notes"):
        parse_arguments(["--dataset_name", "digits", "--card_notes", str(tmp_path / "notes.md")])


def test_what_is_right_is_taken(tmp_path):
    (tmp_path / "notes.md").write_text("For the zoo.\n")
    args = parse_arguments([
        "--dataset_name", "digits", "--license", "other", "--license_name", "house", "--license_link", "LICENSE",
        "--card_notes", str(tmp_path / "notes.md"), "--hub_model_id", "me/digits",
    ])  # fmt: skip
    assert to_recipe(args)["license_name"] == "house"


def test_these_checks_import_nothing_heavy():
    code = (
        "import sys; from hf_imgcls.arguments.parse import parse_arguments\n"
        "parse_arguments(['--dataset_name', 'digits', '--license', 'mit'])\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'jinja2'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_writes_and_pushes_a_card_imports_nothing_heavy():
    code = (
        "import sys; import hf_imgcls.publish.hub\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'sklearn'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
