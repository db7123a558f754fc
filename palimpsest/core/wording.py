"""Wording: how is a number, or a text from outside, written so that nobody is misled?

The report, the terminal and the figures write estimates with these functions, so that one number reads the same everywhere.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Literal

from palimpsest.core.estimate import Estimate

MINUS = "\N{MINUS SIGN}"
COULD_NOT_SAY = "could not say"

_MOST_DECIMALS = 9
_SHOWN: dict[str, tuple[float, int, str]] = {
    "points": (100.0, 1, "points"),
    "share": (100.0, 1, "%"),
    "nats": (1.0, 3, "nats"),
    "nats/token": (1.0, 3, "nats/token"),
    "nats of log-odds": (1.0, 2, "nats"),
    "d'": (1.0, 2, "d\N{PRIME}"),
    "criterion c": (1.0, 2, "c"),
    "cosine": (1.0, 3, "cosine"),
    "per 1,000 tokens": (1.0, 2, "per 1,000 tokens"),
    "SD": (1.0, 2, "SD"),
}
"""Unit to (factor, decimals, what is written). Shares and points are stored as shares of 1."""


@dataclass(frozen=True)
class Shown:
    """An estimate as a person reads it; each part is empty where there is nothing to say."""

    value: str
    interval: str
    unit: str
    remark: str
    """What the number does and does not show: "unchanged within ...", "no change seen; would have seen ...", or why not."""
    state: Literal["known", "exact", "no interval", "unknown"]

    @property
    def sentence(self) -> str:
        """Value, unit and interval in one line."""
        tail = f" {self.interval}" if self.interval else " (interval: could not say)" if self.state == "no interval" else ""
        return f"{self.value}{_joined(self.unit)}{tail}"


def shown(estimate: Estimate | None, *, decimals: int | None = None, change: bool | None = None) -> Shown:
    """Return how an estimate is written.

    Args:
        estimate: ``None`` is a cell about which nothing was asked.
        decimals: of the value and its interval; by default those of its unit (3 for nats, 1 for percent and points).
        change: whether it is a change, which has a sign and a remark on "no change"; by default what its unit, its margin and
            its test let one think. A share is always a level.
    """
    if estimate is None:
        return Shown("", "", "", "", "unknown")
    if estimate.value is None:
        return Shown(COULD_NOT_SAY, "", "", why_unknown(estimate), "unknown")
    factor, usual, unit = _SHOWN.get(estimate.unit, (1.0, None, estimate.unit))
    digits = decimals if decimals is not None else usual if usual is not None else _decimals(estimate.value)
    signed = _is_change(estimate) if change is None else change
    value = number(factor * estimate.value, digits, signed=signed)
    if estimate.interval is None:
        state = "exact" if estimate.method == "exact" else "no interval"
        return Shown(value, "", unit, "exact" if state == "exact" else why_unknown(estimate), state)
    if decimals is None and estimate.interval[0] < estimate.interval[1]:  # an interval that is there is not written as a point
        digits = _apart(factor * estimate.interval[0], factor * estimate.interval[1], digits)
        value = number(factor * estimate.value, digits, signed=signed)
    low, high = (number(factor * bound, digits, signed=signed) for bound in estimate.interval)
    return Shown(value, f"[{low}, {high}]", unit, remark(estimate) if signed else "", "known")


def _apart(low: float, high: float, digits: int) -> int:
    """Return how many decimals tell two bounds apart, at least so many; no more than these where none does."""
    enough = (more for more in range(digits, _MOST_DECIMALS + 1) if number(low, more) != number(high, more))
    return next(enough, digits)


def remark(estimate: Estimate, *, brief: bool = False) -> str:
    """Return what an estimate with an interval shows: against its equivalence margin, or else against no change.

    Args:
        estimate: of a change.
        brief: whether it stands in a narrow column, whose margin is told beside the table.
    """
    if estimate.interval is None or estimate.value is None:
        return ""
    if estimate.interval == (0.0, 0.0):
        return estimate.method
    size = amount(estimate.minimum_detectable, estimate.unit)
    rise = "a rise of " if estimate.unit.startswith("nats") else ""  # a skewed one: a fall against it takes more
    smallest = f"finds ≥ {size}" if brief else f"would have seen {rise}{size} or more"
    unseen = estimate.above(0.0) is None and estimate.minimum_detectable is not None
    if estimate.margin is None:
        return f"no change seen; {smallest}" if unseen else ""
    bound = f"±{amount(estimate.margin, estimate.unit)}"
    if estimate.equivalent:
        return "unchanged" if brief else f"unchanged within {bound}"
    if estimate.above(estimate.margin) is True or estimate.above(-estimate.margin) is False:
        return "beyond" if brief else f"beyond {bound}"
    return ("not decided" if brief else f"not decided against {bound}") + (f"; {smallest}" if unseen else "")


def amount(value: float | None, unit: str) -> str:
    """Return a size without sign, with its unit."""
    if value is None:
        return COULD_NOT_SAY
    factor, digits, written = _SHOWN.get(unit, (1.0, None, unit))
    fine = _decimals(factor * value)
    text = number(factor * abs(value), fine if digits is None else digits)
    text = text if text.strip("0.,") else number(factor * abs(value), fine)  # a size that is there is not written as 0
    if "." in text and abs(float(text) - factor * abs(value)) < 1e-9:
        text = text.rstrip("0").rstrip(".")
    return f"{text}{_joined(written)}"


def moved(change: Estimate, by: str, same: str) -> str:
    """Return what a change comes to in a sentence: the number with its interval, where it is told from none and not shown to be
    inside its margin. Whether it stands among all questions of a run (Holm) is not known where a sentence is written.

    Args:
        change: with its interval and, where it has one, its margin.
        by: how a change is told; ``{}`` stands for its size.
        same: how no change is told.
    """
    if not change.known:
        return f"whether {same} could not be said"
    if change.value and not change.equivalent and change.above(0.0) is not None:
        return by.format(shown(change, change=True).sentence)
    return same + (
        "" if change.interval == (0.0, 0.0) else " within its margin" if change.equivalent else ", as far as this can tell"
    )


def than_controls(over: Estimate, runs: int) -> str:
    """Return how a difference from control runs is told.

    From one run it is a difference from that run, as far as items tell. From several it is told as a number without a claim:
    whether it stands among all questions that were asked (Holm) is not known where a sentence is written.
    """
    if over.value is None:
        return "by how much more than in a control run could not be said"
    if runs > 1:
        return f"{shown(over, change=True).sentence} against {runs} runs of training on rehearsal alone"
    side = over.above(0.0)
    if side is None:
        return "no more than in this control run, as far as these items tell"
    return f"{amount(over.value, over.unit)} {'more' if side else 'less'} than in this control run"


def chance(p_value: float | None) -> str:
    """Return a p-value as it is written; empty where there is none."""
    return "" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Return a number with a true minus sign, and with no sign on a zero."""
    text = f"{abs(value):,.{decimals}f}"
    if not text.strip("0.,"):
        return text
    return f"{MINUS if value < 0 else '+' if signed else ''}{text}"


def spell(seconds: float) -> str:
    """Return a duration as a person says it: "40 s", "3 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def capital(text: str) -> str:
    """Return a text with a capital first letter and the rest as it is."""
    return text[:1].upper() + text[1:]


def visible(text: object, limit: int | None = None) -> str:
    """Return untrusted text in which nothing acts: control and direction characters are written out as what they are.

    Args:
        text: anything; its string form is taken.
        limit: how many characters are kept before a note of how many there are besides.
    """
    said = str(text)
    cut = said if limit is None or len(said) <= limit else said[:limit]
    # nearly all text is printable, which one call tells much sooner than a look at each character
    clean = cut if cut.isprintable() else "".join(_visible(char) for char in cut.replace("\r\n", "\n"))
    return clean if len(cut) == len(said) else f"{clean} … ({len(said) - len(cut):,} more characters)"


def one_line(text: str, room: int, *, middle: bool = False) -> str:
    """Return untrusted text in one line of at most so many characters, with an ellipsis where its end or middle was cut."""
    line = " ".join(visible(text).split())
    end = room // 2 if middle else 0
    return line if len(line) <= room else f"{line[: room - 1 - end]}…{line[len(line) - end :]}"


def counted(count: int, noun: str) -> str:
    """Return a number of things, such as "1 item" or "1,200 items"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _visible(char: str) -> str:
    if char in "\n\t" or char.isprintable() or char in "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}":
        return char
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    if unicodedata.category(char) == "Zs":
        return " "
    return f"\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}U+{ord(char):04X}\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"


def _is_change(estimate: Estimate) -> bool:
    tested = estimate.p_value is not None or estimate.margin is not None
    return estimate.unit == "points" or (estimate.unit != "share" and tested)


def _joined(unit: str) -> str:
    return unit if unit.startswith("%") else f" {unit}" if unit else ""


def why_unknown(estimate: Estimate) -> str:
    """Return why an estimate could not be had."""
    return estimate.method.removeprefix("could not say: ")


def _decimals(value: float) -> int:
    """Return how many decimals give three significant digits."""
    return 3 if value == 0 else max(0, min(9, 2 - math.floor(math.log10(abs(value)))))
