"""Trust: the page says of every model whether its numbers can be trusted, and at the top only where they can't."""

from __future__ import annotations

from palimpsest.core.checkup import Answer
from palimpsest.report import render
from palimpsest.report.trust import trust
from palimpsest.store.record import RunRecord
from tests.report import worlds

FINE = Answer(check="same_twice", about="the same pass twice", state="ok", found="the same bytes")
KNOWN = Answer(check="precision", about="type of the weights", state="told", found="run in bfloat16", follows="changes vanish")
WRONG = Answer(check="padding", about="padded on the left", state="failed", found="differ by 2 nats <b>", follows="don't trust")


def record(*answers: tuple[Answer, ...]) -> RunRecord:
    plain = worlds.as_intended()
    subjects = tuple(
        one.model_copy(update={"checks": checks}) for one, checks in zip(worlds.subjects("base", "tuned"), answers, strict=True)
    )
    return plain.model_copy(update={"subjects": subjects})


def test_nothing_is_said_where_nothing_was_checked() -> None:
    assert trust(worlds.as_intended()) is None and 'id="trust"' not in render(worlds.as_intended())


def test_all_well_is_said_once_and_not_at_the_top() -> None:
    page = render(record((FINE, KNOWN), (FINE, KNOWN)))
    assert "Numbers to take with care" not in page and "Yes, as far as 2 checks" in page
    assert page.count("run in bfloat16; changes vanish") == 1, "of both models, and told once"


def test_what_failed_is_told_at_the_top_with_its_model() -> None:
    page = render(record((FINE,), (FINE, WRONG)))
    top, _, rest = page.partition('id="picture"')
    assert "Numbers to take with care" in top and "tuned: padded on the left: differ by 2 nats &lt;b&gt;" in top
    assert "Not without care: 1 of what was checked" in rest and "<b>;" not in rest


def test_a_line_says_of_which_models_it_is_and_what_failed_comes_first() -> None:
    found = trust(record((FINE, KNOWN), (FINE, WRONG)))
    assert found is not None
    lines = [[cell.text for cell in row] for row in found.checks.rows]
    assert [line[1:3] for line in lines] == [["tuned", "failed"], ["base", "told"], ["all", "ok"]]
