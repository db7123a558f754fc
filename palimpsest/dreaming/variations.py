"""Variations: how does a language model write new scenarios after a few given ones, and which of them can be used?

The writer sees fresh scenarios of the training part with their answers, and writes another prompt and answer in the same form.
What comes back is parsed strictly (one JSON object for one that follows instructions, two labelled lines for one that goes on
with a text), and its answer is held against the check. What can't be parsed or fails its check is refused, never mended.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice

from palimpsest.core.errors import UserError
from palimpsest.core.wording import one_line
from palimpsest.data.chat import Example, Message, whole
from palimpsest.dreaming.grade import passes
from palimpsest.dreaming.records import Proposal
from palimpsest.dreaming.source import ScenarioSource, Wish
from palimpsest.dreaming.sources.generators import Generators

SHOWN = 4
"""So many scenarios are shown to the writer each time."""
HOPELESS = 16
"""So many answers without a single one that can be used mean that the writer does not understand."""
_ATTEMPTS = 4
"""Attempts for each scenario that is wanted, at most."""
_PROMPT, _ANSWER = "Situation: ", "Answer: "
_LONGEST = 4_000


class Unusable(Exception):
    """What a writer wrote is no scenario, and why."""


class Writer(ScenarioSource):
    """A source that has a language model write."""

    at_once = 1
    """So many are asked for together."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the writer is called in the provenance."""

    @abstractmethod
    def write(self, shown: Sequence[Sequence[Example]], wish: Wish, number: int) -> list[str]:
        """Return one text for each group of scenarios shown; ``number`` counts what was asked before in this cycle."""

    @abstractmethod
    def read(self, text: str) -> tuple[str, str]:
        """Return prompt and answer of what was written.

        Raises:
            Unusable: it is not in the form that was asked for.
        """

    def propose(self, wish: Wish) -> Iterator[Proposal]:
        seeds = Generators("", self.plan).propose(wish)
        used, why = 0, ""
        for number in range(0, _ATTEMPTS * max(wish.count, SHOWN), self.at_once):
            shown = [group for _ in range(self.at_once) if len(group := [one.example for one in islice(seeds, SHOWN)]) > 1]
            if not shown:
                return
            for place, (group, text) in enumerate(zip(shown, self.write(shown, wish, number), strict=True)):
                try:
                    example = self._example(group[0], text, wish)
                except Unusable as error:
                    why = str(error)
                    continue
                used += 1
                yield self.proposal(example, wish, {"writer": self.name, "stream": wish.use, "number": number + place})
            if not used and number + self.at_once >= HOPELESS:
                raise UserError(
                    f"{self.name} was asked {number + self.at_once} times for a new scenario, and nothing of what it wrote can "
                    f"be used; the last: {why}. Give a writer that follows instructions better, or another source"
                )

    def _example(self, pattern: Example, text: str, wish: Wish) -> Example:
        prompt, answer = self.read(text)
        if not prompt or not answer or len(prompt) + len(answer) > _LONGEST:
            raise Unusable(f"its prompt or its answer is empty or too long: {one_line(text, 120)!r}")
        at = pattern.decisions[0].message
        before = (*pattern.messages[: at - 1], Message(role=pattern.messages[at - 1].role, content=prompt))
        messages = (*before, Message(role="assistant", content=answer))
        example = Example(
            messages=messages,
            decisions=(whole(messages),),
            template=pattern.template,
            options=pattern.options,
            source=f"written by {self.name}",
        )
        if not passes(self.behaviour, example, wish.pole, answer):
            raise Unusable(f"its answer is not right by the check: {one_line(answer, 120)!r}")
        return example


def can_be_varied(example: Example) -> bool:
    """Whether an example has a prompt of its own before a whole answer."""
    first = example.decisions[0]
    return first.message > 0 and first.start == 0 and not example.is_text


def asked(shown: Sequence[Example], question: str) -> str:
    """Return what a writer that follows instructions is asked."""
    lines = "\n".join(json.dumps({"prompt": _last(one), "answer": one.decision}, ensure_ascii=False) for one in shown)
    return (
        f"{question}\n\nHere are situations with the right answer, one JSON object a line:\n\n{lines}\n\n"
        'Write one more situation of this kind with its right answer, as one JSON object with the keys "prompt" and "answer". '
        "It must be new, and not one of these with a word changed. Write nothing else."
    )


def read_json(text: str) -> tuple[str, str]:
    """Return prompt and answer of one JSON object; a fence of backquotes around it is allowed, and nothing else.

    Raises:
        Unusable: it is anything else.
    """
    bare = text.strip()
    if bare.startswith("```"):
        bare = bare.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        found = json.loads(bare)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Unusable(f"it is no JSON object: {one_line(text, 120)!r}") from None
    if (
        not isinstance(found, dict)
        or set(found) != {"prompt", "answer"}
        or not all(isinstance(one, str) for one in found.values())
    ):
        raise Unusable(f"it must have the texts 'prompt' and 'answer' and nothing else: {one_line(text, 120)!r}")
    return found["prompt"].strip(), found["answer"].strip()


def begun(shown: Sequence[Example]) -> str:
    """Return the beginning of a text that a writer goes on with."""
    blocks = [f"{_PROMPT}{one_line(_last(one), _LONGEST)}\n{_ANSWER}{one_line(one.decision, _LONGEST)}" for one in shown]
    return "\n\n".join([*blocks, _PROMPT.rstrip()])


def read_lines(text: str) -> tuple[str, str]:
    """Return prompt and answer of a continuation: the rest of the first line, and one line that is labelled as the answer.

    Raises:
        Unusable: it goes on in any other form.
    """
    block = text.strip().removeprefix(_PROMPT.strip()).split("\n\n")[0].strip().split("\n")
    if len(block) < 2 or not block[1].startswith(_ANSWER.strip()) or len(block) > 2:
        raise Unusable(f"it does not go on as a situation and an answer: {one_line(text, 120)!r}")
    return block[0].strip(), block[1].removeprefix(_ANSWER.strip()).strip()


def _last(example: Example) -> str:
    return example.messages[example.decisions[0].message - 1].content
