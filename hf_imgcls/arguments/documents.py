"""YAML and JSON as files of arguments and inline values hold them.

Source: number and boolean literals follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema).
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml

# As in YAML 1.2, but with a point or an exponent: 0123 is a name, not a number.
_FLOAT = re.compile(r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$")
_INTEGER = re.compile(r"^(?:0|-?[1-9][0-9]*)$")


class _Loader(yaml.SafeLoader):
    """YAML without PyYAML's traps: ``1e-4`` is a number, ``no`` and dates are text, a repeated key is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own way)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} appears twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what either PyYAML or our loader would read as something other than text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as above)
        key: list(rules) for key, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("^<<$"), ["<"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:[Tt]rue|TRUE|[Ff]alse|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


# Far beyond any recipe; what is deeper or larger is a mistake, or written to fill the memory through aliases.
_MAX_DEPTH, _MAX_NODES = 32, 200_000


def load_yaml(text: str) -> Any:
    """Read YAML 1.2 scalars, lists and mappings.

    Raises:
        yaml.YAMLError: The text is not YAML, a mapping repeats a key, it is nested more than 32 levels deep, or it has
            more than 200,000 values, each alias counted in full.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):  # unlike what follows, this does not recurse
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {_MAX_DEPTH} levels deep")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if _count_nodes(node, {}) > _MAX_NODES:
            raise yaml.YAMLError(f"it has more than {_MAX_NODES:,} values, each alias counted in full")
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _count_nodes(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return how many nodes a tree has once its aliases are written out.

    Raises:
        yaml.YAMLError: A node contains itself.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if known.get(id(node)) == 0:
        raise yaml.YAMLError("an anchor contains an alias of itself")
    if id(node) not in known:
        known[id(node)] = 0  # being counted
        inner = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_count_nodes(part, known) for part in inner)
    return known[id(node)]


def load_json(text: str, **options: Any) -> Any:
    """Read JSON.

    Args:
        text: The document.
        **options: Of ``json.loads``.

    Raises:
        ValueError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def dump_yaml(content: dict[str, Any]) -> str:
    """Write a mapping so that both ``load_yaml`` and other YAML readers get the same values back."""
    return yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000
    )
