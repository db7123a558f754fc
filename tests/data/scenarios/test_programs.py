"""Programs: the interpreter is right, and what is asked is within the model's reach."""

from __future__ import annotations

import pytest

from palimpsest.core.seeds import python_stream
from palimpsest.data.scenarios.programs import Programs, run


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("a = 3\nprint(a)", "3"),
        ("a = 3\nb = a + 4\nprint(b)\nprint(a)", "7\n3"),
        ("a = 3\nb = a\na = a - 2\nprint(b)", "3"),
        ("a = 1\na = a + a\nprint(a)", "2"),
    ],
)
def test_known_programs(program: str, output: str) -> None:
    assert run(program) == output


@pytest.mark.parametrize("program", ["print(a)", "a = 3; print(a)", "import os", "a = __import__('os')", "d = 1"])
def test_anything_else_is_refused(program: str) -> None:
    with pytest.raises(ValueError, match=r"line|read"):
        run(program)


def test_agrees_with_python_itself() -> None:
    for index in range(300):
        example = Programs().make(python_stream(5, "programs", index))
        program = example.messages[0].content.removeprefix("Run:\n")
        shown: list[str] = []
        exec(program, {"print": lambda value, shown=shown: shown.append(str(value))})
        assert example.decision == "\n".join(shown)
        assert all(0 <= int(line) <= 9 for line in example.decision.splitlines())
