"""Plan: can this search be done, within which bounds, and on which items?

Everything that can be known before the first attempt: bounds that the data set besides those of the user, and how the held-out
items are divided so that the final audit has some that no attempt saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from palimpsest import api
from palimpsest.casework import left_out
from palimpsest.controller.settings import START_DOSE, START_REHEARSAL, Bounds, Budget, Settings
from palimpsest.core.errors import UserError
from palimpsest.core.spec import Spec
from palimpsest.core.stats import FEWEST_CLUSTERS
from palimpsest.data.chat import POLES
from palimpsest.data.material import Material
from palimpsest.planning import Plan
from palimpsest.request import Request
from palimpsest.verdict import Thresholds

BLOCK = 96
"""Where the data have an end, they are divided into no more blocks than have so many items a pole."""
FEWEST_BLOCKS = 3
"""One to choose on, one to confirm on, one for the final audit."""
_LEAST = 8
_RATES = (0.25, 4.0)
"""Learning rates that are allowed where nobody says which, as multiples of the behaviour's own."""


class Options(Spec):
    """What a user may set besides a run's own settings."""

    start_dose: int | None = None
    max_dose: int = Bounds.model_fields["max_dose"].default
    learning_rate_range: tuple[float, float] | None = None
    """By default a quarter of the behaviour's own to four times it."""
    max_rehearsal: float = Bounds.model_fields["max_rehearsal"].default
    min_express_share: float = Bounds.model_fields["min_express_share"].default
    search_audits: tuple[str, ...] = ("outcome", "judgement", "forgetting")
    """What is audited while it searches: what the verdict reads. The final audit is complete."""
    search_items: int = Field(default=96, ge=8)
    """At most so many items of each capability, and half as many documents of each text, while it searches."""


@dataclass(frozen=True)
class TunePlan:
    """A search that was checked."""

    request: Request
    """The run that is wanted, whose settings the controller finds."""
    options: Options
    first: Plan
    """The first attempt, planned."""
    start: Settings
    bounds: Bounds
    blocks: int
    """Into how many blocks the held-out items are divided; the last one is kept for the final audit."""
    notes: tuple[str, ...]

    @property
    def thresholds(self) -> Thresholds:
        return self.first.thresholds

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this search this search: all but the budget, so that it goes on when it is given more of it."""
        asked = self.request.model_dump(mode="json")
        digests = {role: info.digest for role, info in self.first.models.items()}
        return {"tune": asked, "options": self.options.model_dump(mode="json"), "models": digests, "blocks": self.blocks}

    def command(self, budget: Budget) -> tuple[str, ...]:
        """Return the command line that asks for this, in its shortest form."""
        request, options = self.request, self.options
        given = options.model_dump(exclude_defaults=True)
        if options.learning_rate_range is not None:
            given["learning_rate_range"] = "{:g}:{:g}".format(*options.learning_rate_range)
        words = ["palimpsest", "tune", *request.command[2:], "--budget", budget.in_words]
        for name in ("start_dose", "max_dose", "learning_rate_range", "max_rehearsal", "search_items"):
            words += [f"--{name.replace('_', '-')}", str(given[name])] if name in given else []
        return tuple(words)

    def block(self, number: int) -> int:
        """Return the block of an attempt: never that of the attempt before, and never the last."""
        return (number - 1) % (self.blocks - 1)

    def attempt(self, settings: Settings, training_seed: int, number: int) -> Request:
        """Return the request of one attempt."""
        request, most = self.request, self.options.search_items
        return self._request(
            settings,
            f"attempt {number}",
            controls=(),
            capability_items=min(request.capability_items, most),
            documents=max(min(request.documents, most // 2), FEWEST_CLUSTERS),
            audits=self.options.search_audits,
            training_seed=training_seed,
            block=self.block(number),
        )

    def final(self, settings: Settings, training_seed: int) -> Request:
        """Return the request of the final audit: all audits, the control, and as many items as asked, that no attempt saw."""
        return self._request(settings, "the final audit", training_seed=training_seed, block=self.blocks - 1)

    def _request(self, settings: Settings, why: str, controls: Sequence[str] | None = None, **rest: Any) -> Request:
        behaviour = self.request.behaviour
        assert behaviour is not None
        training = {
            **behaviour.training,
            "learning_rate": settings.learning_rate,
            "rehearsal_share": settings.rehearsal_share,
            "reason": f"set by the controller for {why}",
        }
        update: dict[str, Any] = {
            "dose": settings.dose,
            "express_share": settings.express_share,
            "rehearsal_weights": settings.rehearsal_weights,
            "training": training,
        }
        update |= {} if controls is None else {"controls": controls}
        return self.request.model_copy(update={**rest, "behaviour": behaviour.model_copy(update=update), "blocks": self.blocks})


def prepare(request: Request, options: Options, budget: Budget) -> TunePlan:
    """Check all that can be checked before the first attempt.

    Raises:
        UserError: what is wrong.
    """
    behaviour = request.behaviour
    assert behaviour is not None, "a run has a behaviour"
    if behaviour.withhold is None:
        raise UserError(
            f"{behaviour.name} has no 'withhold' pole, so no change of it can be told from an overshoot; "
            "say where it should not appear"
        )
    if request.seeds != 1:
        raise UserError("the controller trains one model an attempt and confirms with another seed; leave --seeds out")
    looked_at = api.plan(_small(request))  # with the audits and the control of the final audit
    bounds = _bounds(looked_at, options)
    start = _start(looked_at, options, bounds)
    blocks = _blocks(looked_at, request, budget)
    plan = TunePlan(request, options, looked_at, start, bounds, blocks, ())
    first = api.plan(plan.attempt(start, request.seed, 1))
    dropped = left_out(first.case, first.materials)
    notes = [_items_in_words(first, blocks, budget)]
    if dropped:
        notes.append(
            f"{', '.join(dropped)} have too few held-out items for {blocks} blocks of {FEWEST_CLUSTERS}; they are not measured."
        )
    return TunePlan(request, options, first, start, bounds, blocks, tuple(notes))


def _small(request: Request) -> Request:
    """Return the request with the fewest items, for a look at its data, models and audits."""
    behaviour = request.behaviour
    assert behaviour is not None
    least = {"behaviour": behaviour.model_copy(update={"held_out": _LEAST}), "capability_items": _LEAST, "documents": _LEAST}
    return request.model_copy(update=least)


def _bounds(plan: Plan, options: Options) -> Bounds:
    behaviour = plan.request.behaviour
    assert behaviour is not None
    own = plan.settings.learning_rate
    data: dict[str, Any] = {
        "max_dose": options.max_dose,
        "learning_rate": options.learning_rate_range or tuple(min(factor * own, 1.0) for factor in _RATES),
        "max_rehearsal": options.max_rehearsal,
        "min_express_share": min(options.min_express_share, behaviour.express_share),
        "control": "rehearsal_only" in behaviour.controls and "rehearsal_only" not in plan.request.controls,
        "rehearsed": tuple(plan.materials.rehearsal),
    }
    bounds = Bounds.read(data, "the bounds")
    return bounds.model_copy(update={"most_rows": _most_rows(plan, bounds)})


def _most_rows(plan: Plan, bounds: Bounds) -> dict[str, int]:
    """Return how many rows the data have for training, of each source that has fewer than could be wanted."""
    seed, materials = plan.request.first_seed, plan.materials
    assert materials.express is not None and materials.withhold is not None
    weight = bounds.max_weight
    rows = math.ceil(bounds.max_dose * (1 if bounds.control else bounds.max_rehearsal) / (1 - bounds.max_rehearsal))
    wanted: list[tuple[str, Material, int]] = [
        ("express", materials.express, bounds.max_dose),
        ("withhold", materials.withhold, bounds.max_dose),
    ]
    each = math.ceil(rows * weight / (len(materials.rehearsal) - 1 + weight)) if materials.rehearsal else 0
    wanted += [(f"rehearsal {name}", one, each) for name, one in materials.rehearsal.items()]
    found = {use: _available(lambda count, one=one, use=use: one.training(seed, use, count), most) for use, one, most in wanted}
    return {use: found[use] for use, _, most in wanted if found[use] < most}


def _available(draw: Callable[[int], object], most: int) -> int:
    """Return the largest number up to ``most`` that can be drawn."""

    def enough(count: int) -> bool:
        try:
            draw(count)
        except UserError:
            return False
        return True

    if enough(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def _start(plan: Plan, options: Options, bounds: Bounds) -> Settings:
    behaviour = plan.request.behaviour
    assert behaviour is not None
    low, high = bounds.learning_rate
    wanted = options.start_dose or min(START_DOSE, bounds.max_dose)
    share = behaviour.express_share
    if not 0 < share < 1:
        raise UserError(f"express_share must be above 0 and below 1, so that both poles are trained; found {share:g}")
    start = Settings(
        dose=wanted,
        express_share=share,
        learning_rate=min(max(plan.settings.learning_rate, low), high),
        rehearsal_share=min(START_REHEARSAL, bounds.max_rehearsal),
    )
    if not bounds.holds(start):
        told = "; ".join(f"{name}: {value}" for name, value in bounds.in_words.items())
        raise UserError(f"the first attempt ({start.in_words}) must lie inside the bounds ({told}); give --start-dose")
    return start


def _blocks(plan: Plan, request: Request, budget: Budget) -> int:
    """Return into how many blocks the items are divided: one for each attempt and one more, where the data have so many."""
    behaviour, wanted = request.behaviour, budget.attempts + 1
    assert behaviour is not None and plan.materials.express is not None and plan.materials.withhold is not None
    size = min(behaviour.held_out, BLOCK)
    poles = {"express": plan.materials.express, "withhold": plan.materials.withhold}
    found = {pole: len(one.held_out(request.seed, pole, wanted * behaviour.held_out)) for pole, one in poles.items()}
    fewest = min(found.values())
    if fewest < FEWEST_BLOCKS * FEWEST_CLUSTERS:
        raise UserError(
            f"at least {FEWEST_BLOCKS * FEWEST_CLUSTERS} held-out items a pole are needed (to choose on, to confirm on, and "
            f"for the final audit), found {', '.join(f'{count} ({pole})' for pole, count in found.items())}; give more data"
        )
    return max(FEWEST_BLOCKS, min(wanted, fewest // size))


def _items_in_words(first: Plan, blocks: int, budget: Budget) -> str:
    sizes = " and ".join(f"{len(first.case.items[pole].items)} ({pole})" for pole in POLES)
    if blocks > budget.attempts:
        return f"Every attempt is audited on {sizes} items of its own, and the final audit on others."
    return (
        f"The data have {blocks} blocks of {sizes} held-out items: attempts take {blocks - 1} of them in turn, so that none is "
        "confirmed on its own items, and one block is kept for the final audit."
    )
