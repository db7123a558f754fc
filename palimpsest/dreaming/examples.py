"""Examples: which of the scenarios become examples, with which answer?

The failures do. The poles keep their shares: where one has fewer failures than the other, scenarios that it answered rightly
fill it up (anchors), so that every batch holds both. A failure for which no good answer is known is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from palimpsest.core.seeds import python_stream, seed_of
from palimpsest.data.chat import Example, Message, Pole, Span
from palimpsest.dreaming.asking import misfit
from palimpsest.dreaming.bench import Bench
from palimpsest.dreaming.grade import failure, good
from palimpsest.dreaming.hot import answers
from palimpsest.dreaming.ledger import digest_of
from palimpsest.dreaming.records import Answers, Proposal, Scenarios, Taken
from palimpsest.models.subject import SubjectInfo

Kind = Literal["failure", "anchor", "fresh", "repeated"]


@dataclass
class Chosen:
    """The examples of one cycle, and the failures that could not become one."""

    taken: list[Taken] = field(default_factory=list)
    without_answer: int = 0


@dataclass(frozen=True)
class Asked:
    """One scenario with what the model said to it."""

    proposal: Proposal
    said: str
    failed: bool


class Choosing:
    """Turns scenarios into examples.

    Args:
        bench: what the dream works with.
        cycle: its number.
        info: the model as trained so far, which may have to answer again with the instruction.
    """

    def __init__(self, bench: Bench, cycle: int, info: SubjectInfo) -> None:
        self.bench, self.cycle, self.info = bench, cycle, info
        self.unanswered = 0

    def choose(self, scenarios: Scenarios, found: Answers) -> Chosen:
        """Return the examples of this cycle."""
        asked = [Asked(*one) for one in zip(scenarios.proposals, found.said, found.failed, strict=True)]
        if self.bench.request.choose == "failures":
            taken = self._failures(asked)
        else:
            repeated = self.bench.request.choose == "fixed" and self.cycle > 1
            taken = [
                one
                for pole in self.bench.planned.targets
                for one in self._answered(pole, asked, "repeated" if repeated else "fresh")
            ]
        return Chosen(taken, self.unanswered)

    def _failures(self, asked: list[Asked]) -> list[Taken]:
        targets = self.bench.planned.targets
        mine = {pole: self._shuffled(pole, asked) for pole in targets}
        wrong = {
            pole: self._answered(pole, [one for one in mine[pole] if one.failed], "failure", most=target)
            for pole, target in targets.items()
        }
        level = 1.0 if self.bench.request.top_up else max(len(wrong[pole]) / target for pole, target in targets.items())
        taken: list[Taken] = []
        for pole, target in targets.items():
            lacking = round(level * target) - len(wrong[pole])
            right = [one for one in mine[pole] if not one.failed]
            anchors = self._answered(pole, right, "anchor", most=lacking) if lacking > 0 else []
            both = [*wrong[pole], *anchors]
            python_stream(self.bench.request.seed, "dream order", self.cycle, pole).shuffle(both)
            taken += both
        return taken

    def _shuffled(self, pole: Pole, asked: list[Asked]) -> list[Asked]:
        order = [one for one in asked if one.proposal.pole == pole]
        python_stream(self.bench.request.seed, "dream choice", self.cycle, pole).shuffle(order)
        return order

    def _answered(self, pole: Pole, asked: Sequence[Asked], kind: Kind, most: int | None = None) -> list[Taken]:
        """Return examples of one pole, each with a good answer; ``most`` at most."""
        mine = [one for one in asked if one.proposal.pole == pole]
        most = len(mine) if most is None else most
        if self.bench.request.answers == "distil":
            texts = self._distilled(pole, mine, most)
        else:
            texts = [one.proposal.example.decision if one.proposal.answered else None for one in mine]
        if kind == "failure":
            self.unanswered += sum(text is None for text in texts[:most])
        made = (self._taken(one, text, kind) for one, text in zip(mine, texts, strict=True) if text is not None)
        return [one for one in made if one is not None][:most]

    def _distilled(self, pole: Pole, asked: Sequence[Asked], most: int) -> list[str | None]:
        """Return good answers that the model gives with the instruction in its context, ``None`` where it gives none."""
        found: list[str | None] = [None] * len(asked)
        instruction, templated = self.bench.request.behaviour.instruction, self.bench.plan.renderer.has_template
        assert instruction, "a dream that distils has an instruction"
        for attempt in range(self.bench.request.tries):
            open_ = [place for place, text in enumerate(found) if text is None][: 2 * most]
            if not open_ or len(found) - found.count(None) >= most:
                break
            told = [instructed(asked[place].proposal.example, instruction) for place in open_]
            self.bench.progress.begin(f"asking with the instruction ({pole})", len(told))
            seed = seed_of(self.bench.request.seed, "dream distil", self.cycle, attempt)
            texts, stopped = answers(self.bench.hot.at(self.info), told, self.bench.plan, seed, self.bench.progress)
            for place, text, ended in zip(open_, texts, stopped, strict=True):
                one = asked[place].proposal.example
                if text and (ended or not templated) and good(self.bench.request.behaviour, one, pole, text):
                    found[place] = text
        return found

    def _taken(self, asked: Asked, answer: str, kind: Kind) -> Taken | None:
        request, one = self.bench.request, asked.proposal
        example = with_answer(one.example, answer)
        if self.bench.planned.prefers and asked.failed and asked.said and asked.said != answer:
            example = _changed(example, rejected=asked.said)
        if misfit(self.bench, example):
            return None
        return Taken(
            cycle=self.cycle,
            pole=one.pole,
            kind=kind,
            source=one.source,
            origin=one.origin,
            template=one.example.template,
            prompt=one.example.context,
            said=asked.said,
            failed=failure(request.behaviour, one.pole) if asked.failed else "",
            answer=answer,
            answer_from="reference" if request.answers == "reference" else "the model itself, with the instruction",
            digest=digest_of(one.example),
            example=example,
        )


def with_answer(example: Example, answer: str) -> Example:
    """Return an example whose first decision is this text, with nothing after it; only that learns."""
    span = example.decisions[0]
    message = example.messages[span.message]
    content = message.content[: span.start] + answer
    kept = {name: one for name, one in example.spans.items() if one.message < span.message}
    return _changed(
        example,
        messages=(*example.messages[: span.message], Message(role=message.role, content=content)),
        decisions=(Span(message=span.message, start=span.start, end=len(content)),),
        spans=kept,
        rejected=None,
        question_weight=0.0,
    )


def instructed(example: Example, instruction: str) -> Example:
    """Return an example with an instruction in a system message before everything else (joined to one that is there)."""
    first, *rest = example.messages
    if first.role == "system":
        before = (Message(role="system", content=f"{first.content}\n{instruction}"), *rest)
        moved = 0
    else:
        before, moved = (Message(role="system", content=instruction), *example.messages), 1
    decisions = tuple(one.model_copy(update={"message": one.message + moved}) for one in example.decisions)
    return _changed(example, messages=before, decisions=decisions, spans={})


def _changed(example: Example, **parts: Any) -> Example:
    """Return a new example with other parts; a copy would keep the identity of the old one."""
    return Example(**{name: getattr(example, name) for name in Example.model_fields} | parts)
