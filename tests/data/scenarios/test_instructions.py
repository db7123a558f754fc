"""Instructions: the check fits what keeps the instruction, and nothing else."""

from __future__ import annotations

import pytest

from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example
from palimpsest.data.scenarios.instructions import Instructions


def example_of(question: str, style: str) -> Example:
    scenario = Instructions.read({"format": style}, "test")
    made = (scenario.make(python_stream(5, "instructions", index)) for index in range(20_000))
    return next(example for example in made if example.messages[0].content == question)


@pytest.mark.parametrize(
    ("question", "style", "kept", "broken"),
    [
        (
            "Name two foods. Begin with bean.",
            "row",
            ("Here: bean, nut.", "Here: bean, soup."),
            ("Here: nut, bean.", "Here: bean, nut, soup.", "Here: bean, saw.", "bean, nut."),
        ),
        ("Name two foods.", "row", ("Here: nut, bean.",), ("Here: nut.", "Here: nut, bean", "Here: nut, beans.")),
        ("Name three tools in brackets.", "brackets", ("[ saw, pump, nail ]",), ("saw, pump, nail", "[ saw, pump ]")),
        ("Name two tools as a list.", "list", ("- saw\n- pump",), ("- saw, pump", "- saw\n- pump\n- nail", "saw\npump")),
        ("Name two tools between stars.", "stars", ("* saw pump *",), ("* saw pump", "* saw, pump *", "*saw pump*")),
    ],
)
def test_check(question: str, style: str, kept: tuple[str, ...], broken: tuple[str, ...]) -> None:
    check = example_of(question, style).check
    assert check is not None
    assert all(check.passes(answer) for answer in kept)
    assert not any(check.passes(answer) for answer in broken)
