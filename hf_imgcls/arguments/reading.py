"""Reading the command line and the configuration file into names and values, before anything is judged.

``argparse`` splits the command line and prints ``--help``, but stops at the first mistake; so every flag takes any
number of words here, and what does not fit is added to a list of problems that the caller reports together.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_imgcls.arguments.configs import find_config, suggest_config
from hf_imgcls.arguments.documents import load_json, load_yaml
from hf_imgcls.arguments.types import SECRETS, Argument
from hf_imgcls.errors import ArgumentError

RECIPE_HEADER = "# The arguments of a run of hf_imgcls."
_MAX_BYTES = 4 * 2**20  # of a file of arguments; the recipes have less than 3,000


class _Parser(argparse.ArgumentParser):
    """Splits the command line and prints ``--help``; values are judged later, all together."""

    def error(self, message: str) -> Any:
        raise ArgumentError(message, "flags and values as in --help", "run with --help")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows ``--seed INT`` for a flag that, to argparse, takes any number of words."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=100)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return str(action.metavar or default_metavar)


def read_flags(
    argv: list[str],
    known: dict[str, Argument],
    titles: Mapping[str, str],
    description: str,
    problems: list[ArgumentError],
    first_word: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """Split the command line.

    Args:
        argv: The words after the program's name.
        known: The flags there are.
        titles: Group of flags -> its title in ``--help``.
        description: What the command does.
        problems: Flags with too few or too many values are added here.
        first_word: What a first word without a flag is, for ``--help``.

    Returns:
        Flag -> its text, a list of texts, ``True`` for a bare boolean flag or ``None`` for ``null``; and the names of
        unknown flags. ``--config`` is among the flags.

    Raises:
        SystemExit: With status 0, after ``--help``.
    """
    parser = _Parser(
        description=description,
        allow_abbrev=False,
        usage=f"%(prog)s {f'[{first_word}] ' if first_word else ''}[--config FILE] [--NAME VALUE ...]",
        formatter_class=_Formatter,
        epilog="A boolean is switched on by its bare flag and off by --no_NAME or `--NAME false`; `null` unsets\n"
        "what a file has set; a mapping is inline YAML or JSON; dashes may stand for underscores.",
    )
    parser.add_argument("--config", nargs="*", metavar="FILE", help="YAML or JSON file with the same names; flags win")
    sections = {group: parser.add_argument_group(f"{group} ({title})") for group, title in titles.items()}
    for name, argument in known.items():
        text = argparse.SUPPRESS if argument.hidden else _describe(argument)
        sections[argument.group].add_argument(f"--{name}", nargs="*", metavar=_metavar(argument), help=text)
        if "bool" in argument.type.kinds and f"no_{name}" not in known:
            options: dict[str, Any] = {"action": "store_const", "const": ["false"], "help": argparse.SUPPRESS}
            sections[argument.group].add_argument(f"--no_{name}", dest=name, **options)
    # --learning-rate is --learning_rate: flags may be spelled with dashes, values stay as they are.
    namespace, rest = parser.parse_known_args([_with_underscores(word) for word in argv])
    unknown = [word.partition("=")[0][2:] for word in rest if word.startswith("--")]
    if rest and not unknown:
        problems.append(ArgumentError(f"{' '.join(rest)!r} follows no flag", "--NAME VALUE", "put a flag before it"))
    given = {name: words for name, words in vars(namespace).items() if words is not None}
    flags = {}
    for name, words in given.items():
        kinds, optional = (known[name].type.kinds, known[name].type.optional) if name in known else ({"str"}, False)
        if len(words) == 1 or (words and "list" in kinds):
            flags[name] = None if optional and words == ["null"] else words[0] if len(words) == 1 else words
        elif not words and "bool" in kinds:
            flags[name] = True
        else:
            count = f"{len(words) or 'no'} value{'s' if words else ''}"
            shown = f": {' '.join(words)}" if words and name not in SECRETS else ""
            problems.append(ArgumentError(f"--{name} has {count}{shown}", "one value", f"write --{name} VALUE"))
    return flags, unknown


def _describe(argument: Argument) -> str:
    """The help text with the default, unless the text itself says what happens without a value."""
    told = argument.default is None and ("default" in argument.help or "not given" in argument.help)
    default = str(argument.default).lower() if isinstance(argument.default, bool) else argument.default
    shown = "" if told else f" (default: {'none' if default in (None, '', []) else default})"
    return (argument.help + shown).replace("%", "%%")


def _with_underscores(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag[:2] + flag[2:].replace("-", "_") + equals + value if word.startswith("--") else word


def _metavar(argument: Argument) -> str:
    choices = argument.type.choices or ()
    few = "{" + ",".join(choices) + "}" if 0 < len(choices) <= 4 else ""
    kinds = [kind for kind in ("dict", "list", "bool", "int", "float", "str") if kind in argument.type.kinds]
    return "|".join(few if few and kind == "str" else kind.upper() for kind in kinds)


def read_file(path: str, problems: list[ArgumentError]) -> dict[str, Any]:
    """Read the mapping in a YAML or JSON file.

    Args:
        path: The file, or the name of a packaged config; JSON if its name ends in ``.json``.
        problems: The list that an unreadable or empty file, one that is not a mapping, and repeated keys are added to.

    Returns:
        Key -> value; nothing if there was a problem.
    """
    expected = "a YAML or JSON file with one mapping of argument names to values"
    try:
        text = _read_text(find_config(path))
        content = load_json(text, object_pairs_hook=_unique) if path.endswith(".json") else load_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        fix = suggest_config(path) if isinstance(error, FileNotFoundError) else "correct the file or its name"
        problems.append(ArgumentError(f"{path} cannot be read: {reason}", expected, fix))
        return {}
    if not content or not isinstance(content, dict):
        found = "is empty" if not content else f"holds a {type(content).__name__}"
        fix = "write `name: value` lines, for example `dataset_name: digits`"
        problems.append(ArgumentError(f"{path} {found}", expected, fix))
        return {}
    content = {str(name): value for name, value in content.items()}
    if text.startswith(RECIPE_HEADER) and "training_policy" not in content:  # of a release without one
        content["training_policy"] = "none"  # what it left open was transformers' own
        if content.get("adaptation") == "auto":
            content.setdefault("auto_finetune", "lora")
    return content


def _read_text(path: Path) -> str:
    """Return what a file of arguments holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is a device or a pipe, is too large, or is not UTF-8.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES // 2**20} MiB")
    return content.decode("utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the key {name!r} appears twice")
    return dict(pairs)
