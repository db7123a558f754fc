"""The behaviour's own seeded scenarios, or the training part of its files: is something fresh left in them?"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.errors import UserError
from palimpsest.data.material import one_by_one
from palimpsest.dreaming.records import Proposal
from palimpsest.dreaming.source import ScenarioSource, Wish
from palimpsest.planning import Plan


class Generators(ScenarioSource):
    """Scenarios of the behaviour itself; what is audited on is kept apart by its content."""

    def __init__(self, argument: str, plan: Plan) -> None:
        super().__init__(argument, plan)
        if argument:
            raise UserError(f"the source 'generators' takes no argument, found '{argument}'")

    def propose(self, wish: Wish) -> Iterator[Proposal]:
        material = getattr(self.plan.materials, wish.pole)
        seed = self.plan.request.seed
        for index, example in one_by_one(material, seed, wish.use):
            if not wish.templates or example.template in wish.templates:
                yield self.proposal(example, wish, {"seed": seed, "stream": wish.use, "index": index, "from": example.source})
