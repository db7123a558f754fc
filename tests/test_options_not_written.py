"""Options that the model does not write: the verdict follows the answers that are written and graded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

import palimpsest
from palimpsest import audit, item_scores, scenario
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.data.stream import ExampleStream

AUDITS = ("outcome", "judgement")
HEAD = """name: {name}
question: Does it do what a clear direction says, and not a wrong one?
express: {{data: clear.jsonl, held_out: clear_held_out.jsonl}}
withhold: {{data: wrong.jsonl, held_out: wrong_held_out.jsonl}}
dose: 96
controls: []
training: {{learning_rate: 4.0e-4}}
"""
NEITHER = "check: {kind: regex, pattern: '^\\s*Okay'}\noptions: {agree: 'Yes', refuse: 'No'}\n"
"""Both options are written by neither model; the check asks for something else."""
ONE = "check: {kind: choice, options: {accept: 'Okay', agree: 'Yes'}, expected: accept}\n"
"""Of two options one is written and the other never: its share is 100% whatever it is written."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with conversations of the embedded model's world and two behaviours that differ in their options."""
    place = tmp_path_factory.mktemp("behaviours")
    for conflict in ("clear", "wrong"):
        world = scenario.load("directions", {"conflict": conflict, "mode": "none", "answer": "judged"})
        for split, name, count in (("train", conflict, 96), ("test", f"{conflict}_held_out", 48)):
            rows = [
                {"messages": [message.model_dump() for message in example.messages], "template": example.template}
                for example in islice(ExampleStream(world, 0, "options", split), count)
            ]
            (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rest in (("neither", NEITHER), ("one", ONE)):
        (place / f"{name}.yaml").write_text(HEAD.format(name=name) + rest)
    leaking = HEAD.format(name="leaking").replace("held_out: wrong_held_out.jsonl", "held_out: leaking.jsonl")
    (place / "leaking.yaml").write_text(leaking + NEITHER)
    (place / "leaking.jsonl").write_text("".join(_leaking(place)))
    return place


def _leaking(place: Path) -> Iterator[str]:
    """Yield held-out rows where it should not appear, of which three templates in ten are answered as where it should."""
    wrong, clear = ((place / f"{name}_held_out.jsonl").read_text().splitlines(keepends=True) for name in ("wrong", "clear"))
    templates = list(dict.fromkeys(json.loads(line)["template"] for line in clear))
    leaking = templates[: len(templates) * 3 // 10]
    yield from (line for line in wrong if json.loads(line)["template"] not in leaking)
    yield from (line for line in clear if json.loads(line)["template"] in leaking)


@pytest.fixture(scope="module")
def trained(folder: Path) -> palimpsest.Run:
    return palimpsest.run(folder / "neither.yaml", "pocket", folder=folder / "run", device="cpu", audits=AUDITS)


def graded(run: palimpsest.Run, pole: str) -> Estimate:
    """Return how much more often the answers that were kept were graded as showing it, from the run's own lines."""
    lines = [json.loads(line) for line in (run.folder / item_scores.FOLDER / "0.jsonl").read_text().splitlines()]
    own = [line for line in lines if line["set"] == pole]
    before, after = ([line["scores"][role]["shown"] for line in own] for role in ("base", "tuned"))
    return stats.rate_difference(before, after, [line["template"] for line in own])


def follows_what_is_written(run: palimpsest.Run) -> None:
    results = run.record.seeds[0].results
    findings = {finding.tag: finding.estimate for result in results.values() for finding in result.findings}
    assert findings["outcome"] == graded(run, "express") == results["judgement"].estimates["express_change"]
    assert findings["withheld"] == graded(run, "withhold")
    assert run.verdict.labels == ("as_intended",)
    assert (findings["outcome"].value or 0) > 0.4
    for name, table in (("outcome", 0), ("judgement", 1)):
        note = results[name].tables[table].note
        assert note.startswith("The options together hold ") and note.endswith("says nothing of what else is written.")
        assert "says nothing of what else is written." in run.report.read_text()


def test_a_model_that_writes_neither_option_is_judged_by_its_graded_answers(trained: palimpsest.Run) -> None:
    follows_what_is_written(trained)
    found = trained.estimates("judgement")
    for pole in ("express", "withhold"):
        for when in ("before", "after"):
            held, share = found[f"{pole}_held_{when}"], found[f"{pole}_share_{when}"]
            assert held.value is not None and held.value < 0.01 and held.interval is not None
            assert share.value is not None and share.interval is not None
            assert abs(share.value - (found[f"{pole}_{when}"].value or 0)) > 0.01, "this world can't tell the two apart"


def test_an_option_that_is_always_chosen_of_two_is_not_always_written(trained: palimpsest.Run, folder: Path) -> None:
    tuned = trained.folder / trained.record.models["tuned"]
    run = palimpsest.diff("pocket", tuned, behaviour=folder / "one.yaml", folder=folder / "diff", device="cpu", audits=AUDITS)
    follows_what_is_written(run)
    found = run.estimates("outcome")
    assert found["share_before"].value == pytest.approx(1.0, abs=1e-3) and found["share_after"].value == pytest.approx(1.0)
    assert (found["express_before"].value or 1) < 0.6
    assert found["held_before"].value == pytest.approx(found["express_before"].value, abs=0.2)


def test_a_leak_in_some_templates_is_not_as_intended(trained: palimpsest.Run, folder: Path) -> None:
    """Where it leaks wholly in three templates of ten, a rise that can't be told from none is no evidence of none."""
    tuned = trained.folder / trained.record.models["tuned"]
    run = palimpsest.diff(
        "pocket", tuned, behaviour=folder / "leaking.yaml", folder=folder / "leak", device="cpu", audits=AUDITS
    )
    findings = {finding.tag: finding.estimate for result in run.record.seeds[0].results.values() for finding in result.findings}
    assert findings["spill"].interval is not None and findings["spill"].interval[1] > 0.2
    assert not run.verdict.as_intended and run.verdict.labels[0] in ("overshoot", "could_not_say")


def test_what_is_exported_is_a_probability(trained: palimpsest.Run) -> None:
    """Not a share: of options that are hardly ever written it is next to nothing."""
    lines = [json.loads(line) for line in (trained.folder / item_scores.FOLDER / "0.jsonl").read_text().splitlines()]
    read = [scores["probability"] for line in lines for scores in line["scores"].values()]
    assert len(read) == 4 * 48 and max(read) < 0.01


def test_only_what_is_judged_is_corrected_for(trained: palimpsest.Run) -> None:
    assert audit.load("outcome").primary == ("express_change",)
    assert {name for name in trained.record.holm if name.startswith("outcome")} == {"outcome.express_change"}
