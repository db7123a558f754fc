"""Style: known answers, what must not be seen, and a tiny model through the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
from scipy import stats as known_tests

import palimpsest
from palimpsest import audit as audits
from palimpsest.audit import Case, Finding, NotApplicable, Outcome, Result
from palimpsest.audits.style import Style
from palimpsest.core import stats
from palimpsest.core.measurement import Measurement
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import ItemSet, conversation
from palimpsest.data.user_files import text_example
from palimpsest.measures._forward import run_rows

WORDS = ("the", "old", "boat", "red", "river", "runs", "slow", "bird", "sings", "high", "cold", "stone", "lies", "deep")


def sentences(count: int, stream: str) -> list[str]:
    rng = numpy_stream(0, "sentences", stream)
    return [" ".join(rng.choice(WORDS, int(rng.integers(6, 14)))).capitalize() + "." for _ in range(count)]


def analysed(before: Sequence[str], after: Sequence[str], control: Sequence[str] | None = None, size: int = 4) -> Result:
    """Return what the audit says of texts for the same prompts, of which ``size`` each share a template."""
    items = [
        conversation(("user", f"Say {i}."), ("assistant", "x"), template=f"t{i // size}", source="test")
        for i in range(len(before))
    ]
    roles = ("base", "tuned", *(("rehearsal_only",) if control else ()))
    case = Case(roles, {"withhold": ItemSet(name="withhold", items=tuple(items))}, generation={"seed": 0})
    texts = dict(zip(("base", "tuned", "rehearsal_only"), (before, after, control), strict=True))
    audit = Style()
    measured = {}
    for need in audit.needs(case):
        if need.measure == "generations":
            written = texts[need.role] or ()
            lengths = np.array([len(text.split()) for text in written])
            measured[need.name] = Measurement(
                {"tokens": lengths, "stopped": np.ones(len(lengths), bool)}, {"answer": list(written)}
            )
        else:
            assert need.after is not None
            read = texts[need.after.role] or ()
            own = 0.5 if need.role == need.after.role else 0.75
            nats = np.array([1.0 + 0.01 * len(text) + (own if text not in before else 0.5) for text in read])
            measured[need.name] = Measurement({"nats": nats, "count": np.ones(len(nats), np.int64)})
    return audit.analyse(audit.gather(case, measured), numpy_stream(0, "style"))


def named(result: Result) -> list[str]:
    return [str(row[0]) for table in result.tables if table.title.startswith("Phrases") for row in table.rows]


def test_the_same_texts_are_exactly_no_change() -> None:
    texts = sentences(96, "same")
    result = analysed(texts, texts, texts)
    assert result.estimates["auroc"].value == 0.5
    assert result.estimates["auroc"].p_value == 1.0
    assert result.estimates["auroc_over_control"].interval == (0.0, 0.0)
    for trait in ("length", "coherence", "surprise", "distinct_words", "capitals"):
        change = result.estimates[f"{trait}_change"]
        assert (change.value, change.interval, change.equivalent) == (0.0, (0.0, 0.0), True)
    assert result.estimates["lists_change"].value == 0.0
    assert not named(result)
    assert not result.samples
    assert "exactly the same" in result.summary


@pytest.mark.parametrize(
    ("change", "trait", "phrase"),
    [
        (str.upper, "capitals", "THE"),
        (lambda text: f"{text} Yes indeed.", "length", "Yes indeed."),
        (lambda text: f"- {text}", "lists", "-"),
        (lambda text: text.replace(" ", "\n", 1), "line_breaks", "\u23ce"),
        (lambda text: f"`{text}`", "code", "`"),
    ],
)
def test_a_planted_change_is_found_and_named(change: Callable[[str], str], trait: str, phrase: str) -> None:
    before = sentences(96, "planted")
    rng = numpy_stream(0, "which")
    after = [change(text) if rng.random() < 0.8 else text for text in before]
    result = analysed(before, after)
    estimate = result.estimates[f"{trait}_change"]
    assert estimate.above(0.0)
    assert estimate.value == pytest.approx(
        (result.estimates[f"{trait}_after"].value or 0) - (result.estimates[f"{trait}_before"].value or 0)
    )
    assert (result.estimates["auroc"].value or 0) > 0.85
    assert (result.estimates["auroc"].p_value or 1) < 0.01
    assert any(phrase in one for one in named(result)), named(result)
    assert len(result.samples) == 6
    assert all(one.after == change(one.before) for one in result.samples)


def test_repetition_is_not_mistaken_for_length() -> None:
    before = sentences(96, "repeated")
    longer = [f"{text} {more}" for text, more in zip(before, sentences(96, "more"), strict=True)]
    again = [" ".join([text.split()[0]] * 8) for text in before]
    assert not analysed(before, longer).estimates["distinct_words_change"].above(0.0)
    assert analysed(before, longer).estimates["distinct_words_change"].value == 0.0  # 24 templates are too few for "unchanged"
    assert analysed(before, again).estimates["distinct_words_change"].above(0.0) is False
    assert analysed(before, again).estimates["repeated_change"].above(0.0)


def test_a_control_that_moved_as_far_is_told() -> None:
    before = sentences(96, "control")
    result = analysed(before, [text.upper() for text in before], [text.upper() for text in before])
    over = result.estimates["auroc_over_control"]
    assert over.above(0.0) is None
    assert "rehearsal only: 100%" in result.summary


def test_untrusted_phrases_are_harmless_on_the_page() -> None:
    from palimpsest.report import sections
    from palimpsest.report.page import render
    from tests.report.worlds import record

    before = sentences(96, "html")
    bad = "<script>alert(1)</script> \x1b[31m \u202e $\\frac{ ${{7*7}}"
    result = analysed(before, [f"{bad} {text}" for text in before])
    assert any("script" in one for one in named(result))
    assert any("<script>" in one.after for one in result.samples)
    shown = sections.section(Outcome(audit="style", state="measured", result=result), {})
    assert shown.figure is not None
    cells = [cell.text for grid in shown.grids for row in grid.rows for cell in row]
    assert not any(char in text for text in cells for char in "\x1b\u202e")
    html = render(record(Outcome(audit="style", state="measured", result=result)))
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_p_values_are_uniform_where_nothing_changed() -> None:
    """Labels that mean nothing, in clusters that move together: the p-value is as often below any line as the line says."""
    values = []
    for world in range(400):
        rng = numpy_stream(world, "uniform")
        cluster = np.repeat(np.arange(12), rng.integers(1, 6, 12))
        rows = rng.normal(size=(12, 40))[cluster] + 0.5 * rng.normal(size=(cluster.size, 40))
        values.append(stats.told_apart(rows, cluster, rng).auroc.p_value)
    assert known_tests.kstest(values, "uniform").pvalue > 0.01
    assert np.mean(np.array(values) <= 0.05) <= 0.08


def test_folds_are_grouped_by_template() -> None:
    """Each template changes in a way of its own: whoever trains on a neighbour of the same template would find it out."""
    rng = numpy_stream(0, "leak")
    cluster = np.repeat(np.arange(24), 6)
    rows = np.eye(24)[cluster] + 0.02 * rng.normal(size=(cluster.size, 24))
    grouped = stats.told_apart(rows, cluster, rng)
    leaking = stats.told_apart(rows, np.arange(cluster.size), rng)
    assert abs((grouped.auroc.value or 0) - 0.5) < 0.15
    assert (grouped.auroc.p_value or 0) > 0.05
    assert (leaking.auroc.value or 0) > 0.95


def test_exchanging_both_models_changes_no_auroc() -> None:
    rng = numpy_stream(0, "exchange")
    cluster = np.repeat(np.arange(16), 4)
    rows = rng.normal(size=(64, 30)) + 0.3
    one, two = (stats.told_apart(sign * rows, cluster, numpy_stream(1, "folds")) for sign in (1.0, -1.0))
    assert one.auroc == two.auroc
    assert np.allclose(one.margins, two.margins)


def test_too_few_templates_that_differ_could_not_say() -> None:
    before = sentences(96, "few")
    result = analysed(before, [text.upper() if i < 8 else text for i, text in enumerate(before)])
    assert result.estimates["auroc"].value is None
    assert any("differ in 2 of 24" in one for one in result.cannot_say)
    assert "could not be said" in result.summary
    assert "2 of 24 clusters differ" in result.estimates["capitals_change"].method


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.02, 0.2])
def test_the_interval_of_the_auroc_holds_what_such_a_classifier_reaches(effect: float) -> None:
    one = Style()
    found = []
    for world in range(600):
        rng = numpy_stream(world, "auroc", str(effect))
        data = one.simulate(effect, rng)
        found.append(stats.told_apart(data.tuned.wording, data.clusters, rng).auroc)
    truth = 0.5 if effect == 0.0 else float(np.mean([one.value for one in found if one.value is not None]))
    held = [one.interval[0] <= truth <= one.interval[1] for one in found if one.interval is not None]
    assert len(held) == 600
    assert np.mean(held) >= 0.91, np.mean(held)


def test_not_applicable_says_what_to_give() -> None:
    with pytest.raises(NotApplicable, match="give --text FILE"):
        Style().needs(Case(("base", "tuned"), {}))


def test_a_text_is_gone_on_from_its_beginning() -> None:
    items = ItemSet(name="text:a", items=(text_example("Once upon a time", "t"),))
    needs = Style().needs(Case(("base", "tuned"), {"text:a": items}, generation={"max_new_tokens": 8, "seed": 3}))
    written = [need for need in needs if need.measure == "generations"]
    assert [need.role for need in written] == ["base", "tuned"]
    assert written[0].parameters == {"max_new_tokens": 48, "seed": 3, "opening": 16}
    read = {(need.role, need.after.role) for need in needs if need.after is not None}
    assert read == {("base", "base"), ("base", "tuned"), ("tuned", "base"), ("tuned", "tuned")}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(
        "<|endoftext|>".join(f"{one} {two}" for one, two in zip(sentences(24, "a"), sentences(24, "b"), strict=True))
    )
    return path


def test_two_models_without_a_behaviour_are_compared_by_what_they_write(tmp_path: Path, text: Path) -> None:
    one, two = (tiny.folder(tmp_path / name, seed=seed, max_position_embeddings=96) for name, seed in (("a", 0), ("b", 1)))
    run = palimpsest.diff(one, two, text=[text], folder=tmp_path / "run", device="cpu", audits=("style",))
    found = run.estimates("style")
    assert (found["auroc"].value or 0) > 0.6  # two random models write differently
    assert found["surprise_change"].above(0.0)
    assert found["on_base_text"].above(0.0)  # each is surprised by the other
    assert found["on_tuned_text"].above(0.0) is False
    page = run.report.read_text()
    assert "How it is written" in page and f"text {text.stem}" not in page
    tags = [finding.tag for finding in run.record.seeds[0].outcomes[0].result.findings]  # type: ignore[union-attr]
    assert tags == ["style"] * 3


def test_a_model_against_itself_writes_the_same(tmp_path: Path, text: Path) -> None:
    one = tiny.folder(tmp_path / "a", max_position_embeddings=96)
    run = palimpsest.diff(one, one, text=[text], folder=tmp_path / "run", device="cpu", audits=("style",))
    found = run.estimates("style")
    assert found["auroc"].interval == (0.5, 0.5)
    for name in ("length_change", "coherence_change", "on_base_text", "on_tuned_text", "own_text", "punctuation_change"):
        assert found[name].interval == (0.0, 0.0), name


def test_the_models_read_each_other_and_nothing_twice(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (tiny.folder(tmp_path / name, seed=seed, max_position_embeddings=96) for name, seed in (("a", 0), ("b", 1)))
    passes = []
    monkeypatch.setattr(
        "palimpsest.measures.losses_of_answers.run_rows", lambda *given: (passes.append(given[0].digest), run_rows(*given))
    )
    first = palimpsest.diff(one, two, text=[text], folder=tmp_path / "run", device="cpu", audits=("style",))
    assert len(passes) == 4
    assert len(set(passes)) == 2
    again = palimpsest.diff(one, two, text=[text], folder=tmp_path / "other", device="cpu", audits=("style",))
    assert len(passes) == 4  # all from the cache
    assert again.record.seeds == first.record.seeds


@pytest.mark.parametrize(("short", "said"), [(1, "in 1 pair in which"), (2, "in 2 pairs in which")])
def test_pairs_with_too_few_words_are_counted(short: int, said: str) -> None:
    before = sentences(48, "counted")
    told = analysed(before, ["Only two."] * short + before[short:]).cannot_say
    assert any(f"How varied the words are {said}" in one for one in told)


def test_every_finding_has_its_own_subject() -> None:
    one = audits.load("style")
    rng = numpy_stream(0, "findings")
    findings: Sequence[Finding] = one.analyse(one.simulate(0.1, rng), rng).findings
    assert len({finding.subject for finding in findings}) == len(findings) == 3
