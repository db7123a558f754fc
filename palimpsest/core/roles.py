"""Roles: which of several models are control runs, and what are they called?

The first run of the rehearsal-only control plays ``rehearsal_only``, further ones (other training seeds) ``rehearsal_only_2``,
``rehearsal_only_3`` and so on. Whatever is said of "training on rehearsal alone" stands on how far these runs lie apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CONTROL = "rehearsal_only"
_FURTHER = re.compile(r"_[1-9]\d*$")


def kind(role: str) -> str:
    """Return what kind of model a role is: that of every control run is ``rehearsal_only``."""
    first = _FURTHER.sub("", role)
    return first if first == CONTROL else role


def controls(roles: Iterable[str]) -> list[str]:
    """Return the control runs among roles, in their order."""
    return [role for role in roles if kind(role) == CONTROL]


def control(place: int) -> str:
    """Return the role of a control run, counted from 0."""
    return f"{CONTROL}_{place + 1}" if place else CONTROL


def place_of(role: str) -> int:
    """Return the place of a control run among them, counted from 0; 0 for any other role."""
    further = _FURTHER.search(role) if kind(role) == CONTROL else None
    return int(further[0][1:]) - 1 if further else 0


def numbered(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return models by role from pairs in which the rehearsal-only control may stand several times, once for each run.

    Raises:
        ValueError: another role is given twice.
    """
    found: dict[str, str] = {}
    for role, path in given:
        name = control(len(controls(found))) if role == CONTROL else role
        if name in found:
            raise ValueError(f"one model can be {role}, found {found[name]} and {path}")
        found[name] = path
    return found


def runs(values: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the arrays of all control runs as one [runs, ...]; ``None`` where there is no control.

    Args:
        values: an array for each role, those of the control runs of one shape.
    """
    import numpy as np  # the command line reads this module before it needs any array

    chosen = [values[role] for role in controls(values)]
    return np.stack(chosen) if chosen else None


def called(count: int) -> str:
    """Return what so many control runs are called in a sentence that holds a change against them."""
    return "this control run" if count == 1 else f"{count} runs of training on rehearsal alone"
