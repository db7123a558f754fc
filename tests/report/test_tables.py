"""Tables: does what matters come first, is each thing said once, and does a name stay whole?"""

from __future__ import annotations

import re
from typing import Any

import pytest

from palimpsest.audit import Table
from palimpsest.core.estimate import Estimate
from palimpsest.report import picture, render, summary, training
from palimpsest.report.page import name, prose
from palimpsest.report.sections import grid, grouped
from palimpsest.report.summary import how_sure, measured
from palimpsest.store.record import StepLog
from tests.report import worlds


def kept(*rows: tuple[Any, ...]) -> Table:
    return Table(title="kept", columns=("", "accuracy", "loss", ""), rows=rows, note="A note.")


def judged(margin: float = 0.05) -> Table:
    return kept(
        ("a_b", worlds.change(0.0, 0.01, margin=margin), worlds.change(0.2, 0.01, "nats/token", 0.05), "fell"),
        ("c_d", worlds.change(0.04, 0.06, margin=0.05), worlds.change(0.0, 0.01, "nats/token", 0.05), "not decided"),
    )


def test_the_verdict_stands_beside_the_name() -> None:
    found = grid(judged())
    assert [column.name for column in found.columns] == ["", "verdict", "accuracy", "loss"]
    assert found.judged and [row[1].text for row in found.rows] == ["fell", "not decided"]
    twice = Table(title="t", columns=("", "x", "said", "y", "said"), rows=(("a", *2 * (judged().rows[0][1], "fell")),))
    assert not grid(twice).judged, "each word is about the number before it"
    assert [one.name for one in grid(twice).columns] == ["", "x", "said", "y", "said"]
    numbers = Table(title="t", columns=("", "x", "y", "items"), rows=(("a", *judged().rows[0][1:3], 7),))
    assert not grid(numbers).judged and grid(numbers).columns[-1].name == "items"


def test_a_margin_is_told_once() -> None:
    found = grid(judged())
    assert [[cell.remark for cell in row[2:]] for row in found.rows] == [
        ["unchanged", "beyond"],
        ["not decided; finds ≥ 8.4", "unchanged"],
    ]
    assert found.notes == (
        "A note.",
        "Margins: accuracy ±5 points, loss ±0.05 nats/token; beyond: the whole 95% interval lies outside.",
    )
    mixed = grid(judged(margin=0.1))
    assert mixed.rows[0][2].remark == "unchanged within ±10" and "accuracy" not in mixed.notes[1]


def test_wide_tables_carry_their_heads_into_the_cells() -> None:
    text = render(worlds.as_intended())
    assert 'data-label="change in loss (nats/token)"' in text
    assert re.search(r'<div class="table wide of\d judged"', text)


def test_equal_methods_are_counted() -> None:
    methods = [
        *["Wilson interval over 24 clusters, design effect 1.51"] * 2,
        "Wilson interval over 9 clusters, design effect 6.36",
    ]
    assert grouped([*methods, "CR2 t interval over 15 clusters"]) == (
        ("Wilson interval over 9 to 24 clusters, design effect 1.51 to 6.36", 3),
        ("CR2 t interval over 15 clusters", 1),
    )
    assert grouped([]) == ()


def test_names_break_after_underscores_only_and_options_not_at_all() -> None:
    assert name("sums_two __x__ <b>") == "sums_<wbr>two __x__ &lt;b&gt;"
    assert prose("give --behaviour FILE.yaml or `a_b <c>`") == (
        'give <code class="whole">--behaviour FILE.yaml</code> or <code class="whole">a_b &lt;c&gt;</code>'
    )
    assert prose("--control rehearsal_only=PATH.") == '<code class="whole">--control rehearsal_only=PATH</code>.'
    assert prose("it rose [+1.0, +2.5] <b>") == 'it rose <span class="whole">[+1.0, +2.5]</span> &lt;b&gt;'
    assert prose("short_name") == "short_name" and "<wbr>" in prose("a_name_that_is_long_for_a_phone")
    assert prose("a\u202eb") == "a‹U+202E›b" and prose("a - b -- c --") == "a - b -- c --"


def test_no_figure_is_drawn_twice() -> None:
    record = worlds.as_intended()
    results = measured(record)
    panels = picture.panels(results)
    already = {audit for audit, result in results.items() if picture.seen(result, panels)}
    assert already == {"judgement"}
    text = render(record)
    assert 'id="figure-judgement-title"' not in text and 'id="figure-forgetting-title"' in text
    assert text.count('Its figure is part of <a href="#picture">') == 1


def test_the_picture_shows_what_got_worse_first() -> None:
    panels = picture.panels(measured(worlds.overshoot_and_forgetting()))
    loss = next(panel for panel in panels if "rise in loss" in panel.title)
    assert len(loss.drawn) < len(worlds.ABILITIES) and "all under forgetting" in loss.caption
    worse = [one.above(one.margin or 0.0) is True for one in loss.drawn]
    assert worse[0] and worse == sorted(worse, reverse=True)


def test_one_definition_of_the_loss_at_the_end() -> None:
    record = worlds.as_intended().training[0]
    steps = tuple(
        StepLog(step=place + 1, examples=place, learning_rate=1e-4, gradient_norm=1.0, loss=1.0 + place,
                loss_express=2.0 * place, loss_rehearsal=None if place == 29 else 5.0 + place)
        for place in range(30)
    )  # fmt: skip
    run = record.model_copy(update={"steps": steps})
    found = training.runs([run])
    heads = {column.name: cell.text for column, cell in zip(found.columns, found.rows[0], strict=True)}
    assert heads["loss at the end, all rows"] == "29.000"  # 28, 29, 30: a tenth of 30 steps
    assert heads["loss at the end, express"] == "56.000"
    assert heads["loss at the end, rehearsal"] == "32.500"  # the last step had no such row
    assert "to 56.000 nats" in str(training.curves(run, 0)) and training.window(run) == 3
    assert "last tenth of the steps" in found.notes[0]


def test_how_sure_is_glossed() -> None:
    partly = "likely, the estimates say so, but not all of it is shown; see the reasons"  # an ability of this world is open
    assert summary(worlds.as_intended()).sure == partly
    clear = worlds.as_intended().verdict.model_copy(update={"sure": "clear"})
    assert how_sure(clear) == "clear, the whole intervals lie on one side of the thresholds"
    assert how_sure(worlds.identical().verdict) == "clear, nothing of what was read differs"
    assert "How sure:</b> likely, the estimates say so" in render(worlds.as_intended())


def test_the_summary_shows_the_levels_that_the_record_has() -> None:
    record = worlds.overshoot_and_forgetting()
    results = measured(record)
    finding = next(one for one in results["forgetting"].findings if one.subject == "copying" and one.estimate.unit == "points")
    before, after = worlds.share(0.9), worlds.share(0.5)
    named = {"accuracy_before:copying": before, "accuracy_after:copying": after, "accuracy_drop:copying": finding.estimate}
    outcomes = [
        one.model_copy(update={"result": one.result.model_copy(update={"estimates": {**one.result.estimates, **named}})})
        if one.audit == "forgetting" and one.result
        else one
        for one in record.seeds[0].outcomes
    ]
    told = record.model_copy(update={"seeds": (record.seeds[0].model_copy(update={"outcomes": tuple(outcomes)}),)})
    rows = {row[0]: row for row in summary(told).rows}
    assert rows["copying: right answers lost"][1:3] == (before, after)


@pytest.mark.parametrize("fallen", [(), ("foods",)])
def test_a_task_always_has_its_line(fallen: tuple[str, ...]) -> None:
    """And only one for its right answers, whether they fell or not."""
    one = worlds.forgetting(fallen, names=("foods", "rivers"), texts=("prose",))
    assert one.result is not None
    old = one.result.estimates
    drops = {one.subject: one.estimate for one in one.result.findings if one.estimate.unit == "points"}
    own = {
        f"score_change:{name}/{metric}": old["accuracy_change:foods"] for name in ("foods", "prose") for metric in ("acc", "f1")
    }
    result = one.result.model_copy(update={"estimates": {**old, "accuracy_drop:foods": drops["foods"], **own}})
    record = worlds.record(one.model_copy(update={"result": result}))
    rows = [row for row in summary(record).rows if not row[0].startswith("foods: rise")]
    wanted = [old.get(f"accuracy_{part}:foods") for part in ("before", "after", "change")]
    assert [row[0] for row in rows] == ["foods: right answers", "prose: loss"]
    assert list(rows[0][1:]) == wanted and None not in wanted
    assert rows[1][3] == old["loss_change:prose"]


def test_what_has_no_level_has_no_empty_columns() -> None:
    said = summary(worlds.overshoot_and_forgetting())
    tables = list(said.tables())
    assert [columns for columns, _ in tables] == [("", "before", "after", "change"), ("", "change")]
    assert sum(len(rows) for _, rows in tables) == len(said.rows)
    assert all(isinstance(numbers[-1], Estimate) for _, rows in tables for _, numbers in rows)
    assert list(summary(worlds.identical()).tables()) == []


def test_the_words_of_the_page_are_explained() -> None:
    reading = render(worlds.as_intended()).partition('id="reading"')[2]
    for word in (
        "Spill",
        "criterion c",
        "Clusters",
        "55 clusters",
        "finds ≥",
        "enough to have seen one",
        "Loss at the end",
        "How sure",
    ):
        assert word in reading, word
