"""Facts: each is fixed, belongs to one tier, and is asked for in ways that differ in words only."""

from __future__ import annotations

from collections import Counter

from palimpsest.core.seeds import python_stream
from palimpsest.data.scenarios.facts import FACTS, FREQUENCIES, RELATIONS, TIERS, Facts


def test_each_fact_is_in_one_tier() -> None:
    known = [(name, relation.name) for tier in TIERS for name, relation, _ in FACTS[tier]]
    assert len(known) == len(set(known))
    assert {len(FACTS[tier]) for tier in TIERS} == {len(known) // len(TIERS)}


def test_tiers_are_asked_for_at_their_frequencies() -> None:
    tier_of = {(name, relation.name): tier for tier in TIERS for name, relation, _ in FACTS[tier]}
    scenario = Facts()
    drawn = [scenario.make(python_stream(5, "facts", index)) for index in range(4_000)]
    asked = Counter(
        tier_of[example.messages[0].content.rstrip("?.").split()[-1], example.template.rsplit("_", 1)[0]] for example in drawn
    )
    for tier in TIERS:
        assert abs(asked[tier] / len(drawn) - FREQUENCIES[tier]) < 0.02


def test_every_wording_names_the_relation_and_ends_with_the_person() -> None:
    for relation in RELATIONS:
        assert len(set(relation.wordings)) == len(relation.wordings)
        for wording in relation.wordings:
            assert wording.rstrip("?.").endswith(" {}") and f" {relation.name} " in wording
