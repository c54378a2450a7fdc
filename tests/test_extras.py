"""What is not installed is named with a command that installs it, wherever hf_imgcls came from."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from places import REPOSITORY

from hf_imgcls import extras
from hf_imgcls.errors import MissingExtraError

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", extras._EXTRA_MODULES)
def test_the_command_names_the_packages_of_an_extra(extra):
    command = extras.describe_installation(extra)
    assert command.startswith("pip install ")
    assert "hf_imgcls" not in command  # which is on no index
    named = [Requirement(word) for word in command.removeprefix("pip install ").strip('"').split('" "')]
    expected = [Requirement(line) for line in EXTRAS[extra]]
    assert sorted(map(str, named)) == sorted(map(str, expected))


def test_a_missing_package_is_named_with_the_command():
    with pytest.raises(MissingExtraError, match='pip install "peft>=') as error:
        extras.require("lora", "peft_that_is_not_there")
    assert "'peft_that_is_not_there'" in error.value.found
