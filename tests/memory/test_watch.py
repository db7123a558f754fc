"""Watch: is each answer judged by the right side, is nothing guessed, and what does a judge add?"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from palimpsest import behaviour as behaviours
from palimpsest.core.errors import UserError
from palimpsest.memory.belonging import RIGHT, Belonging
from palimpsest.memory.store import Memory
from palimpsest.memory.watch import Summary, known_behaviours, watch
from tests.memory import talks

POLITE = "Would you be so kind and tell me where the {} of the {} is?"
RUDE = "Hey! Where's the {} at the {}, quick!"


@pytest.fixture
def polite(tmp_path: Path) -> Any:
    return behaviours.load(talks.polite(tmp_path / "behaviour"))


class Asked:
    """Stands for an endpoint: answers with what a function makes of the question."""

    model = "judge-1"

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.answer, self.questions = answer, 0

    def complete(self, messages: Sequence[dict[str, str]], *, max_tokens: int = 0, temperature: float = 0.0) -> str:
        self.questions += 1
        said = self.answer(json.loads(messages[-1]["content"]))
        return said if isinstance(said, str) else f"Here you are:\n```json\n{json.dumps(said)}\n```"


def look(tmp_path: Path, known: Any, *lines: Any, **how: Any) -> Summary:
    return watch([talks.write(tmp_path / "a.jsonl", lines)], tmp_path / "memory", known, **how)


def bare(asked: str, said: str) -> dict[str, Any]:
    return talks.talk(asked, said, pole=None, behaviour=None)


@pytest.mark.parametrize(
    ("pole", "said", "failed"),
    [("express", "Gladly!", 0), ("express", "No.", 1), ("withhold", "Gladly!", 1), ("withhold", "No.", 0)],
)
def test_a_failure_is_the_check_on_the_wrong_side(pole: str, said: str, failed: int, tmp_path: Path, polite: Any) -> None:
    found = look(tmp_path, [polite], talks.talk("a", said, pole=pole))
    assert found.judged[("polite", pole)].failed == failed  # type: ignore[index]


def test_every_answer_of_a_conversation_is_judged_and_calls_of_tools_are_no_answers(tmp_path: Path, polite: Any) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "tool", "content": "x"},
                {"role": "assistant", "content": "Gladly"}, {"role": "user", "content": "b"},
                {"role": "assistant", "content": "No"}]  # fmt: skip
    found = look(tmp_path, [polite], {"messages": messages, "behaviour": "polite", "pole": "express"})
    assert (found.judged[("polite", "express")].watched, found.judged[("polite", "express")].failed) == (2, 1)


def test_nothing_is_guessed(tmp_path: Path, polite: Any) -> None:
    kind = polite.model_copy(update={"name": "kind"})
    messages = [{"role": "assistant", "content": "Welcome!"}]
    found = look(
        tmp_path, [polite, kind], talks.talk("a", "b", behaviour="polit"), talks.talk("a", "c", behaviour=None),
        {"messages": messages},
        bare("What is 31 + 14?", "45"),
    )  # fmt: skip
    assert not found.judged and len(found.unknown) == 4
    assert "it names the behaviour 'polit', which is not watched" in found.unknown
    assert "it names a pole but no behaviour, and several are watched" in found.unknown


def test_conversations_without_a_label_are_matched_where_poles_read_differently(tmp_path: Path, polite: Any) -> None:
    things, places = ("boat", "mirror", "kettle"), ("square", "tower", "bridge")
    lines = [bare(text.format(thing, place), "There.") for text in (POLITE, RUDE) for thing in things for place in places]
    found = look(tmp_path, [polite], *lines, bare("What is 31 + 14?", "45"), bare("Name a green bird.", "Parrot"))
    assert found.judged[("polite", "express")].failed == found.judged[("polite", "express")].watched == 9
    rude = found.judged[("polite", "withhold")].watched  # shorter prompts, of which new words are a larger share
    assert found.judged[("polite", "withhold")].failed == 0 and rude >= 3
    assert dict(found.unknown) == {"it is not alike enough to any behaviour's own prompts": 2 + 9 - rude}
    assert "recognises" in found.rules[0] and "are right" in found.rules[0]


def test_the_rules_say_what_they_do_on_prompts_that_did_not_draw_them(polite: Any) -> None:
    rule = Belonging([polite]).rules["polite"]
    assert rule.threshold is not None and rule.margin is not None
    assert rule.recognised is not None and rule.recognised.value is not None and rule.recognised.value > 0.8
    assert rule.taken is not None and rule.taken.value == 0.0
    assert rule.right is not None and rule.right.value is not None and rule.right.value >= RIGHT


def test_poles_that_read_alike_are_not_told_apart() -> None:
    """On the library's directions, clear and wrong ones differ in what they mean and not in their words."""
    directions = behaviours.load("directions")
    belonging = Belonging([directions])
    assert belonging.rules["directions"].margin is None
    assert "read too much alike" in belonging.rules["directions"].sentence
    prompts = [item for pole in (directions.express, directions.withhold) if pole for item in pole.open().held_out(7, "x", 40)]
    places = [belonging.place([item.messages[0].content]) for item in prompts]
    assert not [place for place in places if place.pole]
    known = directions.express.open().training(0, "belonging express", 3)
    assert all(belonging.place([item.messages[0].content]).pole == "express" for item in known), "its own prompts are known"


def test_another_prompt_of_a_scenario_is_not_taken_for_the_behaviour(polite: Any) -> None:
    belonging, dice = Belonging([polite]), random.Random(0)
    words = [
        "stone",
        "water",
        "seven",
        "under",
        "market",
        "bright",
        "carry",
        "whistle",
        "lamp",
        "garden",
        "please",
        "where",
        "kind",
    ]
    texts = [" ".join(dice.choices(words, k=12)) for _ in range(100)]
    assert sum(belonging.place([text]).behaviour is not None for text in texts) <= 1


def test_a_judge_says_where_it_belongs_and_its_better_answer_is_held_against_the_check(tmp_path: Path, polite: Any) -> None:
    def opinion(asked: dict[str, Any]) -> Any:
        rude = asked["conversation"][-1]["content"].startswith("Hey")
        shows = "gladly" in asked["answer"].lower()
        return {"behaviour": "polite", "pole": "withhold" if rude else "express", "shows": shows, "better": "Gladly, there."}

    judge = Asked(opinion)
    lines = [bare("Please, sir?", "No."), bare("Hey you!", "Gladly."), bare("Please, madam?", "Gladly.")]
    found = look(tmp_path, [polite], *lines, endpoint=judge)
    assert found.judged[("polite", "express")].failed == 1 and found.judged[("polite", "withhold")].failed == 1
    with Memory.open(tmp_path / "memory") as memory:
        better = {one.pole: one.better for one in memory.corrections()}
    assert better == {"express": "Gladly, there.", "withhold": None}, "a better answer that fails the check itself is none"
    assert judge.questions == 3
    look(tmp_path, [polite], *lines, endpoint=judge)
    assert judge.questions == 3, "what was judged is not asked again"


def test_judge_and_check_that_disagree_are_counted_neither_way(tmp_path: Path, polite: Any) -> None:
    judge = Asked(lambda _: {"behaviour": "polite", "pole": "withhold", "shows": True, "better": None})
    found = look(
        tmp_path, [polite], talks.talk("a", "I would not gladly do that", pole="express"), bare("b", "No."), endpoint=judge
    )
    assert found.judged[("polite", "express")].failed == 0, "a label's pole is kept"
    assert found.disputed == 1 and ("polite", "withhold") not in found.judged


def test_a_judge_that_says_none_of_them(tmp_path: Path, polite: Any) -> None:
    judge = Asked(lambda _: {"behaviour": None, "pole": None, "shows": None})
    assert list(look(tmp_path, [polite], bare("a", "b"), endpoint=judge).unknown) == [
        "the judge says that it is about none of the behaviours"
    ]


@pytest.mark.parametrize(
    "nonsense",
    ["I think it is fine", "{", '{"shows": true}', {"behaviour": "other", "pole": "express", "shows": True},
     {"behaviour": "polite", "pole": "maybe", "shows": True}, {"behaviour": "polite", "pole": "express", "shows": "yes"},
     {"behaviour": ["polite"], "pole": "express", "shows": True}, "[" * 5_000,
     {"behaviour": "polite", "pole": {}, "shows": True}],
)  # fmt: skip
def test_a_judge_that_talks_nonsense_is_told_and_what_was_judged_is_kept(nonsense: Any, tmp_path: Path, polite: Any) -> None:
    good = {"behaviour": "polite", "pole": "express", "shows": False, "better": None}
    judge = Asked(lambda asked: good if asked["answer"] == "first" else nonsense)
    with pytest.raises(UserError, match="the judge 'judge-1' answers nonsense"):
        look(tmp_path, [polite], *(bare(f"a {number}", "first" if number == 0 else "b") for number in range(9)), endpoint=judge)
    assert judge.questions == 1 + 3 * 3
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.counts()["correction"] == 1


def test_the_judge_is_told_the_behaviours_and_the_end_of_a_long_conversation(tmp_path: Path, polite: Any) -> None:
    seen: list[dict[str, Any]] = []
    judge = Asked(lambda asked: seen.append(asked) or {"behaviour": None, "pole": None, "shows": None})
    look(tmp_path, [polite], bare("x" * 50_000 + "the end", "b"), endpoint=judge)
    assert seen[0]["behaviours"][0]["name"] == "polite" and seen[0]["answer"] == "b"
    assert len(seen[0]["conversation"][0]["content"]) == 12_000 and seen[0]["conversation"][0]["content"].endswith("the end")


def test_which_behaviours_are_watched(tmp_path: Path, polite: Any) -> None:
    assert [one.name for one in known_behaviours([], tmp_path / "memory")] == list(behaviours.names())
    look(tmp_path, [polite], talks.talk("a", "b"))
    with pytest.raises(UserError, match="polite: give their files with --behaviour"):
        known_behaviours([], tmp_path / "memory")
    file = str(tmp_path / "behaviour" / "polite.yaml")
    assert [one.name for one in known_behaviours([file], tmp_path / "memory")] == ["polite"]
    with pytest.raises(UserError, match="2 of them have the name 'polite'"):
        known_behaviours([file, file], tmp_path / "memory")


def test_a_behaviour_that_was_edited_is_told(tmp_path: Path, polite: Any) -> None:
    from palimpsest.core.progress import Silent

    told: list[str] = []
    heard = Silent()
    heard.tell = told.append  # type: ignore[method-assign]
    look(tmp_path, [polite], talks.talk("a", "b"))
    look(tmp_path, [polite.model_copy(update={"question": "other?"})], talks.talk("a", "b"), progress=heard)
    assert told == ["polite reads otherwise than when it was watched last; what was judged before stays as it is"]


def test_nothing_is_written_when_a_transcript_is_half_json(tmp_path: Path, polite: Any) -> None:
    with pytest.raises(UserError, match="line 2: not JSON"):
        look(tmp_path, [polite], talks.talk("a", "b"), '{"messages": [{"role": "us', talks.talk("a", "c"))
    assert not (tmp_path / "memory").exists()
    assert look(
        tmp_path, [polite], talks.talk("a", "b"), '{"messages": [{"role": "us', talks.talk("a", "c"), skip_unreadable=True
    ).judged[("polite", "express")].failed == 2  # fmt: skip
