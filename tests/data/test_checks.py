"""Checks: do they fire on what they say, and on nothing else, whatever a model writes?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from palimpsest.data.checks import Check, Choice, Contains, Exact, JsonSchema, Number, Regex

ADAPTER: TypeAdapter[Any] = TypeAdapter(Check)


@pytest.mark.parametrize(
    ("check", "passing", "failing"),
    [
        ({"kind": "contains", "texts": ["yes", "sure"]}, ["YES!", "for sure"], ["no", ""]),
        ({"kind": "contains", "texts": ["yes", "sure"], "all": True}, ["yes, sure"], ["yes"]),
        ({"kind": "contains", "texts": ["Yes"], "ignore_case": False}, ["Yes"], ["yes"]),
        ({"kind": "contains", "texts": ["STRASSE"]}, ["die Straße"], ["Gasse"]),
        ({"kind": "regex", "pattern": r"^\s*It rained\."}, [" It rained. Then"], ["Then It rained."]),
        ({"kind": "choice", "options": {"a": "Okay", "b": "No"}, "expected": "a"}, [" Okay, I do"], ["No", "", "Well, Okay"]),
        ({"kind": "number", "equals": 12}, ["12", "first 3, then 12.", "x = 12.0"], ["12 or 13", "-12", "twelve", ""]),
        ({"kind": "number", "equals": 1200.5}, ["1,200.5"], ["1200"]),
        ({"kind": "number", "equals": -4}, ["it is -4"], ["4"]),
        ({"kind": "number", "equals": 4}, ["3-4"], ["3 -4"]),
        ({"kind": "number", "equals": 0.5}, [".5", "0.5"], ["5"]),
        ({"kind": "number", "equals": 10, "tolerance": 0.1}, ["10.05"], ["10.2", "9" * 400]),
        ({"kind": "exact", "text": "A ring. "}, ["A ring.", " A ring.\n"], ["a ring.", "A ring"]),
        (
            {"kind": "json_schema", "json_schema": {"type": "object", "required": ["city"]}},
            ['{"city": "Holm"}'],
            ["{}", "[]", "not json", '{"city": "Holm"} and more', "[" * 100_000, "9" * 5_000],
        ),
    ],
)
def test_what_passes(check: dict[str, Any], passing: list[str], failing: list[str]) -> None:
    one = ADAPTER.validate_python(check)
    assert [one.passes(answer) for answer in passing] == [True] * len(passing)
    assert [one.passes(answer) for answer in failing] == [False] * len(failing)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ({"kind": "contains", "texts": []}, "at least 1 item"),
        ({"kind": "contains", "texts": [""]}, "at least 1 character"),
        ({"kind": "regex", "pattern": "(a"}, "not a regular expression"),
        ({"kind": "choice", "options": {"a": "x"}, "expected": "a"}, "at least 2 items"),
        ({"kind": "choice", "options": {"a": "x", "b": "y"}, "expected": "c"}, "not one of the options a, b"),
        ({"kind": "choice", "options": {"a": "x", "b": " "}, "expected": "a"}, "empty option 'b'"),
        ({"kind": "number", "equals": 1, "tolerance": -1}, "greater than or equal to 0"),
        ({"kind": "number", "equals": float("nan")}, "finite"),
        ({"kind": "json_schema", "json_schema": {"type": "objekt"}}, "not a JSON schema"),
        ({"kind": "json_schema", "json_schema": {"$ref": "http://example.com/schema.json"}}, "http://example.com/schema.json"),
        ({"kind": "json_schema", "json_schema": {"items": [{"$ref": "#/$defs/none"}]}}, "#/$defs/none"),
        ({"kind": "python", "code": "import os"}, "does not match any of the expected tags"),
    ],
)
def test_what_is_refused(check: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as error:
        ADAPTER.validate_python(check)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (Regex(pattern=r"^(a|b|ab)*c$"), "ab" * 500 + "d"),
        (JsonSchema(json_schema={"pattern": r"^(a|b|ab)*c$"}), json.dumps("ab" * 500 + "d")),
    ],
)
def test_a_catastrophic_pattern_is_stopped_and_does_not_pass(check: Any, answer: str) -> None:
    assert not check.passes(answer)  # without a limit it would go on for longer than anybody waits


def test_a_schema_may_refer_to_itself_without_end() -> None:
    assert JsonSchema(json_schema={"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}).passes('"x"')
    assert not JsonSchema(json_schema={"$ref": "#"}).passes("1")


def test_the_longest_fitting_option_is_chosen() -> None:
    check = Choice(options={"no": "No", "not_now": "Not now"}, expected="no")
    assert check.chosen("Not now, please") == "not_now" and check.chosen("No.") == "no" and check.chosen("Yes") is None


@given(st.text())
def test_no_text_breaks_a_check(answer: str) -> None:
    checks = [
        Contains(texts=("x",)),
        Regex(pattern=r"\d+$"),
        Choice(options={"a": "x", "b": "y"}, expected="a"),
        Number(equals=1),
        Exact(text="x"),
        JsonSchema(json_schema={"type": "string", "pattern": "a"}),
    ]
    assert all(isinstance(check.passes(answer), bool) for check in checks)


@given(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), st.text("abc ,;:\n", max_size=20))
def test_a_number_is_found_at_the_end_of_any_sentence(value: float, before: str) -> None:
    assert Number(equals=value, tolerance=1e-6).passes(f"{before} {value:.3f}.")


@pytest.mark.parametrize(
    "check", [Contains(texts=("a", "b")), Choice(options={"a": "x", "b": "y"}, expected="a"), Number(equals=2)]
)
def test_checks_survive_json(check: Any) -> None:
    assert ADAPTER.validate_json(check.model_dump_json()) == check
