"""Stream: is nothing ever shown twice, and nothing in training that is audited on?"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.core.errors import UserError
from palimpsest.data.chat import Example, conversation
from palimpsest.data.stream import ExampleStream, held_out_templates, split_of
from palimpsest.scenario import Scenario


class Digits(Scenario):
    """A small world: so many different sums."""

    size: int = 400
    patterns: int = 0

    def make(self, rng: random.Random) -> Example:
        number = rng.randrange(self.size)
        pattern = rng.randrange(self.patterns) if self.patterns else 0
        return conversation(
            ("user", f"{pattern}: {number}"), ("assistant", str(number)), template=f"pattern {pattern}", source="digits"
        )

    def templates(self) -> tuple[str, ...]:
        return tuple(f"pattern {index}" for index in range(self.patterns))


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


def stream(seed: int = 0, name: str = "use", split: Any = "train", **rest: Any) -> ExampleStream:
    return ExampleStream(rest.pop("scenario", Digits()), seed, name, split, **rest)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 100))
def test_a_stream_never_repeats_and_a_small_dose_begins_a_large_one(seed: int, count: int) -> None:
    large = stream(seed).take(150)
    assert len(set(ids(large))) == 150
    assert ids(stream(seed).take(count)) == ids(large)[:count]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_training_and_audits_share_no_content_whatever_the_seeds(first: int, second: int) -> None:
    trained, audited = stream(first).take(200), stream(second, "audit", "test").up_to(60)
    assert not set(ids(trained)) & set(ids(audited))
    assert {split_of(example) for example in trained} == {"train"}


def test_uses_and_seeds_draw_differently() -> None:
    drawn = [ids(one.take(20)) for one in (stream(), stream(seed=1), stream(name="other"))]
    assert drawn[0] != drawn[1] and drawn[0] != drawn[2]


def test_about_a_fifth_is_held_out() -> None:
    examples = [Digits(size=10**6).make(random.Random(index)) for index in range(4_000)]
    share = Counter(map(split_of, examples))["test"] / len(examples)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 4_000) ** 0.5


def test_what_is_cut_from_one_document_falls_into_one_split() -> None:
    parts = [
        conversation(("user", f"part {index}"), ("assistant", "x"), template="t", source="s", origin="the document")
        for index in range(50)
    ]
    assert len({split_of(part) for part in parts}) == 1


def test_an_exhausted_world_says_so() -> None:
    with pytest.raises(
        UserError, match=r"use: 30 fresh examples are needed, but the scenario gives only \d+ that were not used"
    ):
        stream(scenario=Digits(size=20)).take(30)
    assert len(stream(scenario=Digits(size=20)).up_to(30)) < 20


def test_what_was_seen_elsewhere_is_not_shown_again() -> None:
    seen: set[str] = set()
    first = stream(seen=seen).take(50)
    assert not set(ids(first)) & set(ids(stream(name="other", seen=seen).take(50)))


def test_repeats_come_only_where_they_are_asked_for() -> None:
    assert len(stream(scenario=Digits(size=20), repeat=True).take(200)) == 200


def test_templates_of_training_are_not_those_of_audits() -> None:
    world = Digits(size=10**6, patterns=20)
    trained = {one.template for one in stream(scenario=world, by_template=True).take(300)}
    audited = {one.template for one in stream(scenario=world, split="test", by_template=True).take(300)}
    assert not trained & audited and audited == held_out_templates(world.templates()) and len(audited) == 10
