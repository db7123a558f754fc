"""Checks: does this answer show the behaviour?

Each is plain data that a user can write in YAML; none runs code. Model text is untrusted: patterns run with a time limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from palimpsest.core.spec import Spec

_SECONDS = 1.0
_LONGEST_PATTERN = 10_000
_LONGEST_REASON = 300
_PARTS = regex.compile(r"\{(?P<count>\d+)(?:,\d*)?\}|\\.|\[\]?(?:\\.|[^\]\\])*\]|.", regex.DOTALL)
"""A repetition, or one thing that can be repeated: a character, an escaped one, a class of them, a bracket."""
_NUMBER = regex.compile(r"(?<![\d.])-?(?:\d+(?:\.\d+)?|\.\d+)")
"""A number in a text; the dash in "3-4" is no minus sign."""


class Contains(Spec):
    """The answer holds one of these texts (``all: true``: every one)."""

    kind: Literal["contains"] = "contains"
    texts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    all: bool = False
    ignore_case: bool = True

    def passes(self, answer: str) -> bool:
        fold = str.casefold if self.ignore_case else str
        return (all if self.all else any)(fold(text) in fold(answer) for text in self.texts)


class Regex(Spec):
    """The pattern is found in the answer."""

    kind: Literal["regex"] = "regex"
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        _compile(pattern)
        return pattern

    def passes(self, answer: str) -> bool:
        return _found(self.pattern, answer)


class Choice(Spec):
    """The answer begins with one of several named openings; it passes when that is the one named ``expected``."""

    kind: Literal["choice"] = "choice"
    options: dict[str, str] = Field(min_length=2)
    expected: str

    @model_validator(mode="after")
    def _expected_is_an_option(self) -> Self:
        if self.expected not in self.options:
            raise ValueError(f"expected '{self.expected}' is not one of the options {', '.join(self.options)}")
        if empty := [name for name, text in self.options.items() if not text.strip()]:
            raise ValueError(f"every answer would begin with the empty option '{empty[0]}'; give it a text")
        return self

    def chosen(self, answer: str) -> str | None:
        """Return the name of the option that the answer begins with (the longest that fits), or ``None``."""
        answer = answer.strip()
        fitting = [name for name, text in self.options.items() if answer.startswith(text.strip())]
        return max(fitting, key=lambda name: len(self.options[name]), default=None)

    def passes(self, answer: str) -> bool:
        return self.chosen(answer) == self.expected


class Number(Spec):
    """The last number in the answer equals this one."""

    kind: Literal["number"] = "number"
    equals: float
    tolerance: float = Field(default=1e-9, ge=0)

    def passes(self, answer: str) -> bool:
        found = _NUMBER.findall(answer.replace(",", ""))
        return bool(found) and abs(float(found[-1]) - self.equals) <= self.tolerance


class Exact(Spec):
    """The answer is this text, spaces at the ends aside."""

    kind: Literal["exact"] = "exact"
    text: str

    def passes(self, answer: str) -> bool:
        return answer.strip() == self.text.strip()


class JsonSchema(Spec):
    """The answer is JSON that fits the schema."""

    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any]

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for

        try:
            json.dumps(schema, allow_nan=False)
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON schema: {error.message[:_LONGEST_REASON]}") from None
        except Exception as error:  # the library expects some parts ($schema, $id) to be right before it looks at them
            raise ValueError(f"not a JSON schema: {str(error)[:_LONGEST_REASON]}") from None
        for pattern in _patterns(schema):
            _compile(pattern)
        lost = [reference for reference in _references(schema) if not _resolves(schema, reference)]
        if lost:
            raise ValueError(f"'$ref' must name a part of the schema itself (#/...), which {', '.join(lost)} does not")
        return schema

    def passes(self, answer: str) -> bool:
        try:
            return _validator(self.json_schema).is_valid(json.loads(answer))
        except (ValueError, RecursionError):
            return False


def _compile(pattern: str) -> None:
    """Raises:
    ValueError: it is no regular expression, or one that takes too much room: repetitions are written out when it is compiled.
    """
    if len(pattern) > _LONGEST_PATTERN or _written_out(pattern) > _LONGEST_PATTERN:
        raise ValueError(
            f"a regular expression must have {_LONGEST_PATTERN:,} characters at most, repetitions ({{9}}) written out"
        )
    try:
        # one that calls itself at once, "(?R)", runs out of memory only when it is used
        regex.compile(pattern).search("", timeout=_SECONDS)
    except (regex.error, TimeoutError, RecursionError, OverflowError, MemoryError, ValueError) as error:
        raise ValueError(f"not a regular expression: {error}") from None


def _written_out(pattern: str) -> int:
    """Return about how many parts a pattern has when every repetition in it stands as often as it has to come."""
    groups, last = [0], 0
    for part in _PARTS.finditer(pattern):
        if part["count"]:
            last *= int(part["count"][-9:])
            continue
        groups[-1] += last
        last = 1
        if part[0] == "(":
            groups.append(0)
            last = 0
        elif part[0] == ")" and len(groups) > 1:
            last = groups.pop()
    return sum(groups) + last


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from _patterns(part)


def _found(pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=_SECONDS) is not None
    except (TimeoutError, MemoryError, RecursionError):
        return False


def _validator(schema: dict[str, Any]) -> Any:
    """Return a validator that fetches nothing from anywhere and whose patterns have a time limit too."""
    from jsonschema import ValidationError
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    def pattern(_: Any, wanted: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not _found(wanted, value):
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    return extend(validator_for(schema), {"pattern": pattern})(schema, registry=Registry())


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from _references(part)


def _resolves(schema: dict[str, Any], reference: str) -> bool:
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    try:
        Registry().with_resource("", resource).resolver().lookup(reference)
    except Unresolvable:
        return False
    return True


Check = Annotated[Contains | Regex | Choice | Number | Exact | JsonSchema, Field(discriminator="kind")]
