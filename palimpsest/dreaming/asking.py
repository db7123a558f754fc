"""Asking: which fresh scenarios does the model get in a cycle, and what does it say?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import seed_of
from palimpsest.data.chat import Example
from palimpsest.dreaming.bench import Bench
from palimpsest.dreaming.difficulty import Tally, shares
from palimpsest.dreaming.grade import passes
from palimpsest.dreaming.hot import answers
from palimpsest.dreaming.ledger import Ledger, Refusal
from palimpsest.dreaming.records import Answers, Proposal, Refused, Scenarios
from palimpsest.dreaming.source import Wish
from palimpsest.models.subject import SubjectInfo
from palimpsest.training.sampler import encode_rows, row_problems

_PATIENCE = 400
"""So many refused scenarios in a row mean that a source has nothing new left for this cycle."""
_SHOWN = 12


class Asking:
    """Takes fresh scenarios from the sources, and refuses what was trained on, is audited on, or can't be trained on.

    Args:
        bench: what the dream works with.
        ledger: of every example so far.
    """

    def __init__(self, bench: Bench, ledger: Ledger) -> None:
        self.bench, self.ledger = bench, ledger
        self.now = Ledger(bench.request.alike)  # of this cycle
        self.refused: Counter[str] = Counter()
        self.shown: list[Refused] = []
        self.notes: list[str] = []

    def scenarios(self, cycle: int, tally: Tally) -> Scenarios:
        """Return the scenarios of a cycle.

        Raises:
            UserError: a source can't be read or asked any more.
        """
        request = self.bench.request
        found: list[Proposal] = []
        edges: dict[str, tuple[str, ...]] = {}
        for pole, target in self.bench.planned.targets.items():
            if request.choose != "failures":
                found += self._take(Wish(cycle, pole, target))
                continue
            wanted = tally.wanted(pole, target, request.asked_at_most)
            edge = tally.edge(pole, request.broad_above, request.seed)
            edges[pole] = edge
            found += self._take(Wish(cycle, pole, wanted - wanted // 2 if edge else wanted))
            if edge:
                found += self._take(Wish(cycle, pole, wanted // 2, edge))
        return Scenarios(
            proposals=tuple(found),
            refused=dict(sorted(self.refused.items())),
            shown=tuple(self.shown),
            edge={pole: names for pole, names in edges.items() if names},
            notes=tuple(self.notes),
        )

    def _take(self, wish: Wish) -> Iterator[Proposal]:
        for name, count in shares(wish.count, self.bench.planned.weights).items():
            own = Wish(wish.cycle, wish.pole, count, wish.templates)
            self.bench.progress.begin(f"finding scenarios: {name}, {wish.pole}", count)
            taken = 0
            for proposal in self._fresh(name, own):
                taken += 1
                self.bench.progress.at(taken, count)
                yield proposal
            if taken < count:
                self.notes.append(
                    f"cycle {wish.cycle}: {name} gave {taken} of {count} {wish.area} scenarios where the behaviour should "
                    f"{'' if wish.pole == 'express' else 'not '}appear; it had nothing new left."
                )

    def _fresh(self, name: str, wish: Wish) -> Iterator[Proposal]:
        taken, running = 0, 0
        proposals = self.bench.planned.sources[name].propose(wish) if wish.count else iter(())
        for proposal in proposals:
            refusal = self._refusal(proposal.example)
            if refusal is None:
                self.now.add(proposal.example)
                taken, running = taken + 1, 0
                yield proposal
            else:
                running += 1
                self._note(proposal, refusal)
            if taken >= wish.count or running >= _PATIENCE:
                return

    def _refusal(self, example: Example) -> Refusal | None:
        known = self.ledger.refuses(example) or self.now.refuses(example)
        return known or (Refusal(problem, "") if (problem := misfit(self.bench, example)) else None)

    def _note(self, proposal: Proposal, refusal: Refusal) -> None:
        self.refused[refusal.reason] += 1
        if len(self.shown) < _SHOWN and refusal.like:
            self.shown.append(
                Refused(
                    reason=refusal.reason,
                    pole=proposal.pole,
                    source=proposal.source,
                    prompt=proposal.example.context,
                    like=refusal.like,
                )
            )


def misfit(bench: Bench, example: Example) -> str:
    """Say what keeps an example from being trained on; empty where nothing does."""
    base = bench.plan.models["base"]
    assert example.pole is not None
    try:
        (row,) = encode_rows(bench.plan.renderer, [example], example.pole)
    except UserError:
        return "its tokens can't be told apart"
    found = row_problems(row, base.context_length, base.vocabulary_size)
    if not found:
        return ""
    return "too long for the model" if len(row.tokens) > base.context_length else "it can't be trained on"


def ask(bench: Bench, cycle: int, scenarios: Scenarios, info: SubjectInfo) -> Answers:
    """Return what the model, as trained so far, says to every scenario, and whether that fails the check."""
    proposals = scenarios.proposals
    if not proposals:
        return Answers(said=(), failed=())
    bench.progress.begin("asking the model", len(proposals))
    seed = seed_of(bench.request.seed, "dream answers", cycle)
    said, _ = answers(bench.hot.at(info), [one.example for one in proposals], bench.plan, seed, bench.progress)
    behaviour = bench.request.behaviour
    right = [passes(behaviour, one.example, one.pole, text) for one, text in zip(proposals, said, strict=True)]
    return Answers(said=tuple(said), failed=tuple(not one for one in right))
