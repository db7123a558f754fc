"""The page of several runs told together: whole, escaped, the same bytes, and a figure that fails costs only itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest import api
from palimpsest.audit import Table
from palimpsest.core.errors import UserError
from palimpsest.store import account as accounts
from palimpsest.store.account import Account, Figure, Member, Part
from tests.report import worlds

HOSTILE = "<script>alert(1)</script>\x1b[31m"


def account(name: str = "dose response", drawing_numbers: dict[str, object] | None = None) -> Account:
    doses = [0.0, 10.0, 50.0, 200.0, 1000.0]
    rates = [0.3, 0.31, 0.4, 0.8, 0.9]
    curve = {
        "series": [
            {
                "label": "shown",
                "x": doses,
                "y": rates,
                "low": [one - 0.05 for one in rates],
                "high": [one + 0.05 for one in rates],
            }
        ],
        "x_label": "dose (examples)",
        "unit": "share of answers",
    }
    figure = Figure(
        title="Outcome by dose",
        caption="Bands: 95% intervals over 3 seeds.",
        drawing="curves",
        numbers=curve if drawing_numbers is None else drawing_numbers,
    )
    table = Table(
        title="By dose",
        columns=("dose", "shown"),
        rows=tuple((f"{int(dose)}", worlds.share(rate)) for dose, rate in zip(doses, rates, strict=True)),
    )
    part = Part(
        name=name, question="How does it grow?", answer="It grows.", figures=(figure,), tables=(table,), cannot_say=("why",)
    )
    return Account(
        kind="study",
        title=name,
        question="How many examples does it take?",
        label="described",
        headline="Half of the change is there at 120 [90, 160] examples.",
        sure="three seeds",
        reasons=("10 examples find nothing.",),
        parts=(part,),
        members=(
            Member(name="dose 10, seed 0", folder="points/10-0", state="finished", told="Too little change"),
            Member(name="dose 50, seed 0", folder="", state="failed", told="memory ran out"),
        ),
        provenance={"packages": {"torch": "2.13"}},
        specification={"doses": [0, 10]},
    )


def test_the_page_is_whole_and_gives_the_same_bytes_again(tmp_path: Path) -> None:
    page = api.write_account(account(), tmp_path)
    first = page.read_bytes()
    assert first.count(b"<svg") == 1 and b"By dose" in first and b"memory ran out" in first and b"120 [90, 160]" in first
    page.unlink()
    assert api.redraw(tmp_path).read_bytes() == first


def test_what_a_model_wrote_is_escaped(tmp_path: Path) -> None:
    page = api.write_account(account(HOSTILE), tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page and "\x1b" not in page


def test_a_figure_that_fails_costs_only_itself(tmp_path: Path) -> None:
    page = api.write_account(account(drawing_numbers={"series": [{}]}), tmp_path).read_text(encoding="utf-8")
    assert "The figure could not be drawn" in page and "By dose" in page


def test_a_folder_without_an_account_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no account"):
        accounts.read(tmp_path)
    with pytest.raises(UserError, match="holds no finished run"):
        api.redraw(tmp_path)
