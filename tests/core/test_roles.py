"""Which models are control runs, and how are several of them given?"""

from __future__ import annotations

import pytest

from palimpsest.core import roles
from palimpsest.core.errors import UserError
from palimpsest.request import Request


def test_further_control_runs_are_numbered_and_found_again() -> None:
    found = roles.numbered([("rehearsal_only", "a"), ("clean_twin", "c"), ("rehearsal_only", "b")])
    assert found == {"rehearsal_only": "a", "clean_twin": "c", "rehearsal_only_2": "b"}
    assert roles.controls(found) == ["rehearsal_only", "rehearsal_only_2"]
    assert [roles.place_of(role) for role in found] == [0, 0, 1]
    with pytest.raises(ValueError, match="clean_twin"):
        roles.numbered([("clean_twin", "a"), ("clean_twin", "b")])


def test_the_command_of_a_diff_gives_every_control_run() -> None:
    controls = {"rehearsal_only": "a", "rehearsal_only_2": "b"}
    request = Request.read({"kind": "diff", "base": "x", "tuned": "y", "controls": controls}, "test")
    assert request.command[-4:] == ("--control", "rehearsal_only=a", "--control", "rehearsal_only=b")


@pytest.mark.parametrize("given", [{"rehearsal_only_2": "a"}, {"clean_twin_2": "a"}, {"twin": "a"}])
def test_other_roles_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(UserError):
        Request.read({"kind": "diff", "base": "x", "tuned": "y", "controls": given}, "test")
