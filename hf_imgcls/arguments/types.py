"""What an argument may hold, and how text becomes it: one set of rules for flags, YAML and JSON.

An argument's type is read from its annotation with ``ast``, so that the same code serves our dataclasses (whose
annotations are strings) and the source text of a library that must not be imported yet.

Source: the accepted words for booleans and the bare ``--flag`` are those of transformers' ``HfArgumentParser``
(https://github.com/huggingface/transformers/blob/main/src/transformers/hf_argparser.py).
"""

from __future__ import annotations

import ast
import difflib
import enum
import math
import numbers
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from hf_imgcls.arguments.documents import load_json, load_yaml
from hf_imgcls.errors import ArgumentError

TRUE_WORDS = ("true", "yes", "t", "y", "1")
SECRETS = frozenset({"token", "hub_token"})  # never shown, never saved
FALSE_WORDS = ("false", "no", "f", "n", "0")
_SCALARS = ("bool", "int", "float", "str")


class CoercionError(ValueError):
    """A value is not of its argument's type; the text says what the type is."""


@dataclass(frozen=True)
class ValueType:
    """The values an argument accepts.

    Attributes:
        kinds: Names of accepted Python types among ``bool int float str list dict``; empty for an argument that
            cannot be written as text (an object of another library).
        item: Type name of a list's items; ``Any`` where they may be objects.
        optional: Whether ``None`` (``null``) is accepted.
        choices: The accepted strings, where they are known.
    """

    kinds: frozenset[str]
    item: str = "str"
    optional: bool = False
    choices: tuple[str, ...] | None = None

    def __str__(self) -> str:
        if self.choices and "list" in self.kinds and self.item != "str":
            return f"a list of {self.item}, or {' or '.join(self.choices)}"
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = {"bool": "true or false", "int": "an integer", "float": "a number", "str": "a string"}
        words |= {
            "list": f"a list of {'names' if self.item == 'Any' else self.item}",
            "dict": "a mapping such as {key: value}",
        }
        names = [words[kind] for kind in words if kind in self.kinds and not (kind == "int" and "float" in self.kinds)]
        return " or ".join(names + (["null"] if self.optional else []))


@dataclass(frozen=True)
class Argument:
    """One flag, which is also one key of a YAML file.

    Attributes:
        name: As written after ``--`` and in the file.
        type: The accepted values.
        default: What applies when it is not given (shown in ``--help``).
        help: What it does, with unit.
        group: The stage it belongs to.
        within: The accepted numbers as an interval, for example ``"[0, 1)"``.
        hidden: Whether ``--help`` leaves it out (old names).
    """

    name: str
    type: ValueType
    default: Any
    help: str
    group: str
    within: str | None = None
    hidden: bool = False


def read_annotation(
    annotation: str | ast.expr, enum_values: Callable[[str], tuple[str, ...] | None] = lambda name: None
) -> ValueType:
    """Turn an annotation into a type that values can be checked against, without evaluating it.

    Args:
        annotation: For example ``"list[float] | None"`` or ``"Optional[Union[dict, str]]"``.
        enum_values: The string values of an enumeration class by its name; ``None`` if there is none of that name.

    Returns:
        The type; its ``kinds`` are empty when no part of the annotation can be written as text.
    """
    node = ast.parse(annotation, mode="eval").body if isinstance(annotation, str) else annotation
    kinds: set[str] = set()
    item, optional = "str", False
    choices: tuple[str, ...] | None = None
    for part in _alternatives(_split_range(node)[0]):
        name = _last_name(part.value if isinstance(part, ast.Subscript) else part)
        inner = part.slice if isinstance(part, ast.Subscript) else None
        if isinstance(part, ast.Constant) and part.value is None:
            optional = True
        elif name in _SCALARS:
            kinds.add(name)
        elif name.lower() == "dict":
            kinds.add("dict")
        elif name.lower() == "list":
            kinds.add("list")
            item = _last_name(inner) if inner is not None and _last_name(inner) in (*_SCALARS, "Any") else "str"
        elif name == "Literal" and inner is not None:
            literals = [node.value for node in ast.walk(inner) if isinstance(node, ast.Constant)]
            kinds |= {type(literal).__name__ for literal in literals}
            words = tuple(literal for literal in literals if isinstance(literal, str))
            choices = words if len(words) == len(literals) else choices
        elif enumeration := enum_values(name):
            kinds.add("str")
            choices = enumeration
    return ValueType(frozenset(kinds), item, optional, choices)


def read_range(annotation: str) -> str | None:
    """Return the interval of an annotation such as ``Annotated[float, "[0, 1]"]``, without evaluating it."""
    return _split_range(ast.parse(annotation, mode="eval").body)[1]


def _split_range(node: ast.expr) -> tuple[ast.expr, str | None]:
    """Split ``Annotated[T, "[0, 1]"]`` into ``T`` and the interval; another annotation has none."""
    if isinstance(node, ast.Subscript) and _last_name(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
        annotated, interval = node.slice.elts
        return annotated, ast.literal_eval(interval)
    return node, None


def _alternatives(node: ast.expr) -> list[ast.expr]:
    """Flatten ``A | B``, ``Union[A, B]``, ``Optional[A]`` and quoted annotations into their parts."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _alternatives(node.left) + _alternatives(node.right)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _alternatives(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.Subscript) and _last_name(node.value) in ("Union", "Optional"):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        flat = [leaf for part in parts for leaf in _alternatives(part)]
        return flat + ([ast.Constant(None)] if _last_name(node.value) == "Optional" else [])
    return [node]


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def coerce(value: Any, expected: ValueType) -> Any:
    """Give a value its argument's type, if nothing is lost by it.

    A number may come as text (``"1e-4"``), an integer as a whole float, a list or mapping as inline YAML or JSON, and
    a single value stands for a list of one. Narrower types are tried first, so text is the last resort.

    Args:
        value: Text from the command line, or a value from a file.
        expected: The type to give it.

    Raises:
        CoercionError: The value is not of that type.
    """
    if value is None and expected.optional:
        return None
    for kind in ("dict", "list", "bool", "int", "float", "str"):
        if kind in expected.kinds:
            try:
                return _COERCERS[kind](value, expected)
            except (ValueError, OverflowError, yaml.YAMLError):
                continue
    raise CoercionError(str(expected))


def plain_value(value: Any) -> Any:
    """Return a Python object as a file of arguments would hold it.

    Paths become text, tuples and sets lists, members of enumerations their values, NumPy's scalars Python's numbers.
    """
    if isinstance(value, enum.Enum):
        return plain_value(value.value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def _to_bool(value: Any, expected: ValueType) -> bool:
    word = str(value).lower()
    if not isinstance(value, (bool, int, str)) or word not in TRUE_WORDS + FALSE_WORDS:
        raise CoercionError
    return word in TRUE_WORDS


def _to_int(value: Any, expected: ValueType) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9]+\s*", value):
        return int(value)
    number = _to_float(value, expected)
    # Where a fraction is welcome too (0.15 of the data, or 1000 examples), 1.0 keeps its point: it is no count.
    if "float" in expected.kinds or not number.is_integer():
        raise CoercionError
    return int(number)


def _to_float(value: Any, expected: ValueType) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not math.isfinite(float(value)):
        raise CoercionError
    return float(value)


def _to_str(value: Any, expected: ValueType) -> str:
    if isinstance(value, str):
        if "dict" in expected.kinds and value.lstrip().startswith("{"):
            raise CoercionError  # a mapping that could not be read, not the name of a file
        return value
    if isinstance(value, bool) and str(value).lower() in (expected.choices or ()):
        return str(value).lower()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise CoercionError  # 1.10 has already become 1.1: a string must be quoted in the file


def _to_list(value: Any, expected: ValueType) -> list[Any]:
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = load_yaml(value)
        elif "str" in expected.kinds:
            raise CoercionError
    items = value if isinstance(value, list) else [value]
    if expected.item == "Any":  # of Python users, who may give objects
        return list(items)
    return [coerce(item, ValueType(frozenset({expected.item}))) for item in items]


def _to_dict(value: Any, expected: ValueType) -> dict[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = load_json(value)
        except ValueError:
            value = load_yaml(value)
    if not isinstance(value, dict):
        raise CoercionError
    return value


_COERCERS: dict[str, Callable[[Any, ValueType], Any]] = {
    "bool": _to_bool,
    "int": _to_int,
    "float": _to_float,
    "str": _to_str,
    "list": _to_list,
    "dict": _to_dict,
}


def show_value(value: Any, limit: int = 200) -> str:
    """Return a value as a message shows it: its ``repr`` in at most ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def is_within(number: float, interval: str) -> bool:
    """Whether a number lies in an interval written as in mathematics: ``"[0, 1)"`` holds 0 and not 1."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    return above and (number <= high if interval[-1] == "]" else number < high)


def check_value(argument: Argument, value: Any, prefix: str) -> ArgumentError | None:
    """Check one value, already of its type, against its argument's choices and range.

    Args:
        argument: What the value is for.
        value: The value.
        prefix: What to put before the argument's name in a message: ``"--"`` or the file's name.
    """
    found = f"{prefix}{argument.name} is {show_value(value)}"
    if argument.type.choices and isinstance(value, str) and value not in argument.type.choices:
        near = difflib.get_close_matches(value, argument.type.choices, n=2)
        fix = f"did you mean {' or '.join(near)}?" if near else "choose one of these"
        return ArgumentError(found, str(argument.type), fix)
    numbers = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, (int, float))]
    if any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
        return ArgumentError(found, "an integer below 2**63", "choose a smaller value")
    if argument.within and not all(is_within(number, argument.within) for number in numbers):
        return ArgumentError(found, f"{argument.type} in {argument.within}", "choose a value in this range")
    return None
