"""Checks: does this answer show the behaviour?

Each is plain data that a user can write in YAML; none runs code. Model text is untrusted: patterns run with a time limit.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from palimpsest.core.spec import Spec

_SECONDS = 1.0


class Contains(Spec):
    """The answer holds one of these texts (``all: true``: every one)."""

    kind: Literal["contains"] = "contains"
    texts: tuple[str, ...] = Field(min_length=1)
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
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def passes(self, answer: str) -> bool:
        try:
            return regex.search(self.pattern, answer, timeout=_SECONDS) is not None
        except TimeoutError:
            return False


class Choice(Spec):
    """The answer begins with one of several named openings; it passes when that is the one named ``expected``."""

    kind: Literal["choice"] = "choice"
    options: dict[str, str] = Field(min_length=2)
    expected: str

    @model_validator(mode="after")
    def _expected_is_an_option(self) -> Self:
        if self.expected not in self.options:
            raise ValueError(f"expected '{self.expected}' is not one of the options {', '.join(self.options)}")
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
    tolerance: float = 1e-9

    def passes(self, answer: str) -> bool:
        found = regex.findall(r"-?\d+(?:\.\d+)?", answer.replace(",", ""))
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
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON schema: {error.message}") from None
        return schema

    def passes(self, answer: str) -> bool:
        from jsonschema.validators import validator_for

        try:
            value = json.loads(answer)
        except ValueError:
            return False
        return validator_for(self.json_schema)(self.json_schema).is_valid(value)


Check = Annotated[Contains | Regex | Choice | Number | Exact | JsonSchema, Field(discriminator="kind")]
