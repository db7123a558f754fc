"""Does a settings object refuse what it does not know, and say it well?"""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import Field, ValidationError

from palimpsest.core.errors import UserError
from palimpsest.core.spec import Spec, digest


class Inner(Spec):
    learning_rate: float = Field(1e-4, gt=0)


class Outer(Spec):
    steps: int
    name: str = "pocket"
    optimiser: Inner = Inner()


def test_a_good_file_is_read():
    found = Outer.read({"steps": 3, "optimiser": {"learning_rate": 0.1}}, "recipe.yaml")
    assert found == Outer(steps=3, optimiser=Inner(learning_rate=0.1))


def test_every_problem_is_told_at_once_with_its_place():
    with pytest.raises(UserError) as told:
        Outer.read({"nam": "x", "optimiser": {"learning_rate": -1, "learnig_rate": 2}}, "recipe.yaml")
    text = str(told.value)
    assert text.startswith("recipe.yaml can't be used:") and text.count("\n  - ") == 4
    assert "'steps' is missing" in text
    assert "unknown key 'nam'. Did you mean 'name'?" in text
    assert "unknown key 'optimiser.learnig_rate'. Did you mean 'learning_rate'?" in text
    assert "'optimiser.learning_rate'" in text and "found -1" in text


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(UserError) as told:
        Outer.read({"steps": "x" * 500}, "recipe.yaml")
    assert len(str(told.value)) < 250 and "..." in str(told.value)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_mapping_is_a_user_error(data):
    with pytest.raises(UserError, match="the file"):
        Outer.read(data, "recipe.yaml")


def test_a_setting_can_not_be_changed_nor_be_nan():
    with pytest.raises(ValidationError):
        Outer(steps=1).steps = 2  # type: ignore[misc]
    with pytest.raises(UserError):
        Inner.read({"learning_rate": float("nan")}, "recipe.yaml")


def test_a_digest_depends_on_content_only():
    assert digest({"a": 1, "b": [2, "ä"]}) == digest({"b": [2, "ä"], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2}) != digest({"a": "2"})
    assert digest(Inner()) == digest({"learning_rate": 1e-4})
    assert len(digest(None)) == 32


def test_a_digest_is_the_same_in_another_process():
    code = "from palimpsest.core.spec import digest; print(digest({'x': [1, 'y'], 'a': {'b': None}}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {digest({"x": [1, "y"], "a": {"b": None}}) + "\n"}
