"""Memory: does the model still fail where it once failed in real conversations?

The corrections that ``palimpsest watch`` keeps are taken, the most important first. What was said then failed; a better answer
serves where one is known and the check calls it one. Without one the model has to find it itself (``--answers distil``).
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.errors import UserError
from palimpsest.core.files import expanded
from palimpsest.data.chat import Example, Message, whole
from palimpsest.dreaming.grade import passes
from palimpsest.dreaming.records import Proposal
from palimpsest.dreaming.source import ScenarioSource, Wish
from palimpsest.memory.records import Failure
from palimpsest.memory.store import Memory
from palimpsest.planning import Plan

_MOST = 10_000


class Memories(ScenarioSource):
    """Failures of a memory of corrections, each proposed in every cycle until it was used."""

    takes = "the folder of a memory"

    def __init__(self, argument: str, plan: Plan) -> None:
        super().__init__(argument, plan)
        if not argument:
            raise UserError(f"the source 'memory' needs {self.takes}, as 'palimpsest watch --memory' made it")
        self.folder = expanded(argument).absolute()
        with Memory.open(self.folder) as memory:
            self.failures = memory.failures(self.behaviour.name, _MOST)
        if not self.failures:
            raise UserError(f"the memory {self.folder} holds no failure of '{self.behaviour.name}'; watch more transcripts")

    def propose(self, wish: Wish) -> Iterator[Proposal]:
        for failure in self.failures:
            example = _example(failure)
            if failure.pole == wish.pole and (not wish.templates or example.template in wish.templates):
                good = passes(self.behaviour, example, failure.pole, example.decision)
                yield self.proposal(
                    example, wish, {"memory": self.folder.name, "correction": failure.correction.id}, answered=good
                )


def _example(failure: Failure) -> Example:
    """Return a failure as an example: what stood before it, with the better answer, or with what was said."""
    answer = failure.correction.better or failure.correction.said
    messages = (*failure.messages, Message(role="assistant", content=answer))
    return Example(
        messages=messages,
        decisions=(whole(messages),),
        template=f"correction {failure.correction.scenario}",
        source="memory",
    )
