"""Attention shift on worlds with known answers, and through the whole path on tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import palimpsest
from palimpsest.audit import Case, NotApplicable, Result
from palimpsest.audits.attention_shift import AttentionShift, Data
from palimpsest.core import roles as control_runs
from palimpsest.core.estimate import Estimate
from palimpsest.core.heat_map import heat_map
from palimpsest.core.measurement import Measurement
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.attended import Attended, How, how_read
from palimpsest.data.chat import ItemSet, conversation
from palimpsest.models import pocket
from palimpsest.report.look import draw

AUDIT = AttentionShift()


def analysed(data: Data, seed: int = 0) -> Result:
    return AUDIT.analyse(data, numpy_stream(seed, "test"))


def table(result: Result, title: str) -> dict[str, tuple[object, ...]]:
    return {str(row[0]): row[1:] for one in result.tables if one.title.startswith(title) for row in one.rows}


def value(cell: object) -> float:
    assert isinstance(cell, Estimate) and cell.value is not None
    return cell.value


def world(distance: np.ndarray, *controls: np.ndarray, templates: int = 24) -> Data:
    """One set of items, ``templates`` clusters, with these distances [items, layers, heads]."""
    cluster = np.arange(len(distance)) % templates
    roles = {"tuned": distance} | {control_runs.control(place): one for place, one in enumerate(controls)}
    return Data({"express": Attended(cluster, roles)}, How(tuple(range(distance.shape[1]))), len(controls))


def test_the_head_that_moved_is_named_and_marked_alone() -> None:
    rng = numpy_stream(1, "world")
    tuned, *controls = (0.02 * rng.lognormal(0, 0.1) * rng.gamma(5, 0.2, (96, 6, 4)) for _ in range(6))
    tuned[:, 3, 2] += 0.3 * rng.gamma(5, 0.2, 96)
    result = analysed(world(tuned, *controls))
    name, (moved, floor, over) = next(iter(table(result, "Heads that moved most").items()))
    assert name == "layer 3, head 2"
    assert value(moved) == pytest.approx(0.32, abs=0.05)
    assert value(floor) == pytest.approx(0.02, abs=0.01)
    assert isinstance(over, Estimate) and over.above(0.0)
    assert np.argwhere(result.figure["marked"]).tolist() == [[3, 2]]
    assert {place.layer: value(place.estimate) for place in result.network}[3] > 0.08
    assert value(result.estimates["share_of_top_heads"]) > value(result.estimates["share_of_top_heads_control"]) + 0.2


def test_from_one_control_run_no_head_is_marked_and_nothing_is_tested() -> None:
    rng = numpy_stream(2, "world")
    tuned, control = (0.02 * rng.gamma(5, 0.2, (96, 6, 4)) for _ in range(2))
    result = analysed(world(3 * tuned, control))
    assert not result.figure["marked"] and not result.figure["mark"]
    over = result.estimates["distance_over_floor"]
    assert over.above(0.0) is True and over.p_value is None
    assert "more than in this control run" in result.summary and "rehearsal alone" not in result.summary
    several = analysed(world(3 * tuned, control, 0.7 * control, 1.4 * control))
    assert "against 3 runs of training on rehearsal alone" in several.summary
    assert several.estimates["distance_over_floor"].p_value is not None


def test_being_chosen_makes_no_head_look_better() -> None:
    """All heads move alike: what is told of those that were chosen is what is true of all, as one half never saw the choice."""
    named, shares, covered = [], [], []
    for seed in range(100):
        rng = numpy_stream(seed, "alike")
        result = analysed(world(0.02 * rng.gamma(2, 0.5, (48, 8, 8)), 0.02 * rng.gamma(2, 0.5, (48, 8, 8))), seed)
        named.append([value(row[0]) for row in table(result, "Heads that moved most").values()])
        share = result.estimates["share_of_top_heads"]
        shares.append(value(share))
        assert share.interval is not None
        covered.append(share.interval[0] <= 7 / 64 <= share.interval[1])
    assert np.mean(named) == pytest.approx(0.02, rel=0.03)  # the largest of 64 means would be a third larger
    assert np.mean(shares) == pytest.approx(7 / 64, rel=0.03)
    assert np.mean(covered) >= 0.90 - 2 * np.sqrt(0.90 * 0.10 / 100)  # each end of a ratio's interval holds with 95%


def test_without_a_control_the_noise_is_told_to_be_unknown() -> None:
    result = analysed(world(0.02 * numpy_stream(2, "world").gamma(5, 0.2, (96, 6, 4))))
    assert "distance_over_floor" not in result.estimates
    assert result.estimates["distance"].p_value is None
    assert any("--control rehearsal_only=PATH" in said for said in result.cannot_say)
    assert result.figure["marked"] == []
    assert all(place.floor is None for place in result.network)


def test_few_templates_name_no_head() -> None:
    result = analysed(world(numpy_stream(3, "world").gamma(5, 0.01, (40, 2, 2)), templates=10))
    assert not table(result, "Heads that moved most")
    assert any("16 templates are needed" in said for said in result.cannot_say)
    assert result.estimates["distance"].interval is not None


def test_text_is_not_called_a_decision() -> None:
    data = world(numpy_stream(6, "world").gamma(5, 0.02, (24, 2, 2)))
    texts = analysed(replace(data, groups={"text:tales": data.groups["express"]}))
    assert "at the last tokens of texts (tales) goes elsewhere" in texts.summary
    assert "at decision tokens (where it should appear) goes elsewhere" in analysed(data).summary
    assert "decision" not in str([one.model_dump() for one in texts.tables])


def test_a_share_does_not_reach_beyond_all_of_it() -> None:
    result = analysed(world(np.where(np.arange(24) < 3, 0.5, 1.0)[:, None, None]))
    interval = result.estimates["distance"].interval
    assert interval is not None and interval[1] == 1.0


def test_sets_without_a_pole_are_read_together() -> None:
    rng = numpy_stream(4, "world")
    data = Data(
        {
            name: Attended(np.arange(12), {"tuned": rng.gamma(5, 0.2, (12, 2, 2)) * size})
            for name, size in (("a", 0.1), ("b", 0.3))
        },
        How((0, 1)),
        False,
    )
    result = analysed(data)
    assert result.estimates["distance"].n == 24
    assert value(result.estimates["distance"]) == pytest.approx(0.2, rel=0.3)
    assert list(table(result, "Attention that moved at")) == ["a", "b"]


def measurement(**more: np.ndarray) -> Measurement:
    arrays = {"start": np.arange(9), "layer": np.array([0]), "difference": np.full(8, 1e-5), **more}
    return Measurement(arrays, {"read": ["sdpa", "float32"]})


def gathered(base: Measurement, tuned: Measurement) -> Data:
    rows = [conversation(("user", f"Say {index}"), ("assistant", "Yes"), template=str(index), source="t") for index in range(8)]
    case = Case(roles=("base", "tuned"), items={"express": ItemSet(name="express", items=tuple(rows))})
    need = AUDIT.needs(case)
    return AUDIT.gather(case, {need[0].name: base, need[1].name: tuned})


def test_attention_that_changes_the_model_is_not_read() -> None:
    moved = {"distance": np.full((8, 1, 2, 4), 0.1)}
    with pytest.raises(
        NotApplicable, match=r"changes a log-probability of tuned by 0\.3 nats, and 0\.01 are allowed in float32"
    ):
        gathered(measurement(), measurement(**moved, difference=np.array([np.nan] * 7 + [0.3])))
    half = Measurement(measurement(**moved, difference=np.full(8, 0.3)).arrays, {"read": ["sdpa", "bfloat16"]})
    assert gathered(measurement(), half).how.difference == 0.3
    with pytest.raises(NotApplicable, match="are not those of the base"):
        gathered(measurement(), measurement())
    with pytest.raises(NotApplicable, match="takes no cache"):
        gathered(measurement(), Measurement({"start": np.zeros(9)}, {"read": ["sdpa", "float32"], "why": ["X takes no cache"]}))


def test_how_it_was_read_is_told() -> None:
    told = how_read([{"base": measurement(outside=np.full((8, 1), 0.125)), "tuned": measurement()}]).told
    assert told == (
        "Read with eager attention, in place of sdpa; this changed log-probabilities by under 0.00001 nats. "
        "Lower bounds: 12.5% of the base's attention is on keys that were not kept."
    )


def test_decisions_shorter_than_the_queries_count_what_they_have() -> None:
    distance = np.full((8, 1, 2, 4), 0.1)
    distance[0, ..., 2:] = np.nan
    distance[0, ..., :2] = 0.3
    data = gathered(measurement(), measurement(distance=distance))
    assert data.groups["express"].distance["tuned"][0].tolist() == [[pytest.approx(0.3)] * 2]
    assert np.isnan(data.groups["express"].by_token["tuned"][0]).tolist() == [False, False, True, True]


def test_a_map_of_many_heads_is_small_and_says_its_unit() -> None:
    rng = numpy_stream(5, "world")
    cells = np.abs(rng.normal(0, 0.1, (80, 64)))
    cells[0, 0], cells[1, 1] = -0.01, np.nan
    figure = {
        "cells": [[None if np.isnan(one) else one for one in row] for row in cells.tolist()],
        "rows": list(map(str, range(80))), "columns": list(map(str, range(64))), "row_label": "layer", "column_label": "head",
        "unit": "points <of> attention", "factor": 100.0, "marked": [], "mark": "",
    }  # fmt: skip
    drawn = str(draw(lambda axes: heat_map(axes, figure), "figure-x", "title", "description"))
    assert len(drawn) < 600_000
    assert "<image" not in drawn
    assert ">points &lt;of&gt; attention</text>" in drawn
    assert ">layer</text>" in drawn and ">head</text>" in drawn
    empty = {**figure, "cells": [[0.0]], "rows": ["0"], "columns": ["0"]}
    assert ">0.00</text>" in str(draw(lambda axes: heat_map(axes, empty), "figure-y", "title", "description"))


# ---------------------------------------------------------------- the whole path


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    colours, animals = ("red", "blue", "grey", "pink", "green", "black"), ("cat", "dog", "cow", "hen")
    for pole, question, answer in (("yes", "May the {} {} come?", "Yes."), ("no", "Must the {} {} go?", "No.")):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": question.format(colour, animal)},
                    {"role": "assistant", "content": answer},
                ],
                "template": f"{colour} {animal}",
            }
            for colour in colours
            for animal in animals
        ]
        (tmp_path / f"{pole}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "b.yaml"
    path.write_text(
        "name: b\nquestion: Does it say yes?\nexpress: {data: yes.jsonl, held_out: yes.jsonl}\n"
        "withhold: {data: no.jsonl, held_out: no.jsonl}\n"
        "check: {kind: choice, options: {agree: 'Yes', refuse: 'No'}, expected: agree}\ndose: 8\nheld_out: 48\n"
    )
    return path


@pytest.mark.parametrize("kind", ["llama", "qwen3_5_text"])
def test_a_model_against_itself_computed_twice_is_exactly_0(kind: str, behaviour: Path, tmp_path: Path) -> None:
    base = tiny.folder(tmp_path / "base", kind)
    other = tiny.folder(tmp_path / "other", kind)
    (other / "note.txt").write_text("another folder, the same weights")
    run = palimpsest.diff(base, other, behaviour=behaviour, folder=tmp_path / "run", device="cpu", audits=("attention_shift",))
    result = run.record.seeds[0].outcomes[0].result
    assert result is not None, run.record.seeds[0].outcomes[0].why
    assert result.estimates["distance"].interval == (0.0, 0.0)
    assert {value(place.estimate) for place in result.network} == {0.0}
    parts = {"llama": ["attention", "attention"], "qwen3_5_text": ["attention", "recurrent"]}
    assert [place.part for place in result.network] == parts[kind]
    if kind == "qwen3_5_text":
        assert [place.layer for place in result.network] == [1, 0]
        assert result.estimates["state_drift"].interval == (0.0, 0.0)
    assert run.report.read_text().count("Attention shift") >= 2


def test_a_head_whose_queries_were_scaled_is_the_one_that_moved(behaviour: Path, tmp_path: Path) -> None:
    base = tiny.folder(tmp_path / "base")
    changed = tiny.folder(tmp_path / "changed")
    model = AutoModelForCausalLM.from_pretrained(changed)
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[8:16] *= 1.5
    model.save_pretrained(changed)
    run = palimpsest.diff(
        base, changed, behaviour=behaviour, folder=tmp_path / "run", device="cpu", audits=("attention_shift",)
    )
    result = run.record.seeds[0].outcomes[0].result
    assert result is not None
    heads = table(result, "Heads that moved most")
    assert next(iter(heads)) == "layer 1, head 1"
    assert [value(row[0]) for row in heads.values()][1:] == [0.0] * 5
    assert value(result.estimates["share_of_top_heads"]) == pytest.approx(1.0)
    assert [place.layer for place in result.network if value(place.estimate)] == [1]


def test_directions_name_what_conflicts_with_them(tmp_path: Path) -> None:
    """On the embedded model, its last layer's heads blurred: mass leaves whatever they looked at, and the spans are named."""
    model = AutoModelForCausalLM.from_pretrained(pocket.folder())
    with torch.no_grad():
        model.model.layers[-1].self_attn.q_proj.weight *= 0.2
    model.save_pretrained(tmp_path / "changed")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "changed" / name).write_bytes((pocket.folder() / name).read_bytes())
    run = palimpsest.diff(
        "pocket",
        tmp_path / "changed",
        behaviour="directions",
        folder=tmp_path / "run",
        device="cpu",
        audits=("attention_shift",),
    )
    result = run.record.seeds[0].outcomes[0].result
    assert result is not None, run.record.seeds[0].outcomes[0].why
    spans = table(result, "Attention on named spans")
    assert {name.split(" (")[0] for name in spans} == {
        "what conflicts with the direction", "what supports it", "the direction"
    }  # fmt: skip
    assert result.estimates["conflict_shift"].n >= 20
    assert "conflict_over_floor" not in result.estimates
    rows = {name.split(" (")[0]: row for name, row in table(result, "Concentration").items()}
    gini = rows["Gini coefficient"][2]
    assert isinstance(gini, Estimate) and gini.above(0.0) is False
    assert [place.layer for place in result.network if value(place.estimate) > 0] == [len(model.model.layers) - 1]


def test_one_set_that_cannot_be_read_leaves_the_others() -> None:
    data = replace(world(np.full((24, 1, 1), 0.1) + np.arange(24)[:, None, None] / 1e3), unread=("Attention on b: too short.",))
    assert "Attention on b: too short." in analysed(data).cannot_say
