"""YAML: what plain data does a file hold, whoever wrote it?

Read are the scalars of YAML 1.2, in which ``yes``, ``no`` and ``on`` are words, 1:30 is no number of seconds and 010 is ten;
or those of 1.1, for files that belong to a program that reads these. Merge keys (``<<``) are followed in both. Refused are a
key that is given twice (YAML would quietly take the last one), kinds that JSON, and so a record, doesn't have, and references
(``*name``) that make more out of the file than stands in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from palimpsest.core.errors import UserError
from palimpsest.core.files import read_file

Version = Literal["1.1", "1.2"]

_LARGEST = 2**20
"""Bytes of a file."""
_MOST_VALUES = 100_000
_LONGEST_REASON = 600
_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
"""The core schema of YAML 1.2 (section 10.3.2) and merge keys: kind, pattern, characters that it begins with. An integer is
looked for before a float."""


class _Loader(yaml.SafeLoader):
    """Reads plain data, scalars as of YAML 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if other := [key for key in found if not isinstance(key, str)]:
            raise yaml.MarkedYAMLError(
                problem=f"the key {other[0]!r} is no text; put it in quotes", problem_mark=node.start_mark
            )
        return found

    def refuse(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        raise yaml.MarkedYAMLError(
            problem=f"a {kind} can't be used here; write plain text, in quotes where it looks like one",
            problem_mark=node.start_mark,
        )


for _kind in ("timestamp", "binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.refuse)


class _Loader12(_Loader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


class _Dumper12(yaml.SafeDumper):
    """Writes what ``_Loader12`` reads as it was."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _kind, _pattern, _first in _SCALARS:
    for _one in (_Loader12, _Dumper12):
        _one.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_pattern})$"), list(_first))
_Loader12.add_constructor(f"{_TAG}int", _Loader12.construct_yaml_int)


def compose(path: Path, version: Version = "1.2") -> yaml.MappingNode:
    """Return a file's keys and values as they stand there: nothing is made of them yet.

    Raises:
        UserError: it can't be read, is no YAML, holds no keys, a key twice, or references without end.
    """
    try:
        loader = (_Loader12 if version == "1.2" else _Loader)(read_file(path, _LARGEST).decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is not None:
            _refuse_endless(node)
            for _, one in nodes(node):
                _refuse_twice(one)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} can't be read: it is not UTF-8 text; save it as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path} is not YAML that can be read: it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise _unreadable(path, error) from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} must hold keys and values, found {_called(node)}")
    return node


def construct(path: Path, node: yaml.MappingNode, version: Version = "1.2") -> dict[str, Any]:
    """Return what a file holds as plain data, merge keys and references written out.

    Raises:
        UserError: a value can't be made, is of a kind that JSON doesn't have, or has a tag of its own (``!name``).
    """
    try:
        return (_Loader12 if version == "1.2" else _Loader)("").construct_document(node)
    except RecursionError as error:
        raise UserError(f"{path} is not YAML that can be read: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number that can't be one
        raise _unreadable(path, error) from error


def read(path: Path, version: Version = "1.2") -> dict[str, Any]:
    """Return what a file holds as plain data; raises as ``compose`` and ``construct`` do."""
    return construct(path, compose(path, version), version)


def dump(data: Any) -> str:
    """Return plain data as it would be written in a file; ``read`` gives the same again."""
    return yaml.dump(data, Dumper=_Dumper12, sort_keys=False, allow_unicode=True, width=100) if data else ""


def nodes(root: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """Yield every key, value, list and mapping of a file once, with the dotted keys under which it stands."""
    waiting, seen = [("", root)], {id(root)}
    while waiting:
        place, node = waiting.pop()
        yield place, node
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        inner = [(f"{place}.{key.value}".lstrip("."), value) for key, value in pairs] + [(place, key) for key, _ in pairs]
        for part in inner or [(place, one) for one in _parts(node)]:
            if id(part[1]) not in seen:
                seen.add(id(part[1]))
                waiting.append(part)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [side for pair in node.value for side in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _called(node: yaml.Node | None) -> str:
    return "nothing" if node is None else "list" if isinstance(node, yaml.SequenceNode) else "one value"


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not YAML that can be read: {' '.join(str(error).split())[:_LONGEST_REASON]}")


def _refuse_twice(node: yaml.Node) -> None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    counts = Counter(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
    if twice := [key for key, count in counts.items() if count > 1 and key != "<<"]:
        raise yaml.MarkedYAMLError(problem=f"the key '{twice[0]}' is given twice", problem_mark=node.start_mark)


def _refuse_endless(node: yaml.Node) -> None:
    """Refuse a document that holds itself, or that becomes very large when every reference in it is written out."""
    sizes: dict[yaml.Node, int] = {}

    def size(one: yaml.Node) -> int:
        if one not in sizes:
            sizes[one] = _MOST_VALUES  # what holds itself is larger than any number
            sizes[one] = min(1 + sum(map(size, _parts(one))), _MOST_VALUES)
        return sizes[one]

    if size(node) >= _MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"written out it would hold {_MOST_VALUES:,} values or more; leave out references (*name) to references",
            problem_mark=node.start_mark,
        )
