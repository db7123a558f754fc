"""Stream: which example comes next, and has it been used before?

(seed, stream name, index) decides an example. The split is a hash of the content, not of the index, because small worlds
(two-digit sums) would otherwise show the same sum in training and in test. A stream never gives the same example twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Literal

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example
from palimpsest.scenario import Scenario

Split = Literal["train", "test"]

_TEST_SHARE = 0.2
_PATIENCE = 2_000
"""So many rejected examples in a row mean that the scenario has nothing new left."""


def split_of(example: Example) -> Split:
    """Return the split that an example's content belongs to, in every run and on every machine."""
    return split_of_content(example.origin or example.id)


def split_of_content(content: str) -> Split:
    """Return the split of an example whose ``origin`` (or ``id``, where it has none) is this."""
    first = int.from_bytes(hashlib.blake2b(content.encode(), digest_size=4).digest(), "little")
    return "test" if first < _TEST_SHARE * 2**32 else "train"


def held_out_templates(templates: tuple[str, ...]) -> frozenset[str]:
    """Return the half of the templates that no behaviour is trained on (every second one, ordered by hash)."""
    ordered = sorted(templates, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    return frozenset(ordered[1::2])


class ExampleStream:
    """An endless, never repeating run of examples of one scenario, all of one split.

    Args:
        scenario: what makes the examples.
        seed: the run's seed.
        name: the use (``"train"``, ``"audit"``); two uses draw different examples.
        split: the content split to stay in.
        by_template: also keep the templates of the splits apart (only where the scenario has a list of them).
        seen: ids that count as used already; the stream adds its own.
        repeat: allow the same example again (only the embedded model's own training does).
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        name: str,
        split: Split,
        *,
        by_template: bool = False,
        seen: set[str] | None = None,
        repeat: bool = False,
    ) -> None:
        self.scenario, self.seed, self.name, self.split, self.repeat = scenario, seed, name, split, repeat
        self.seen = set() if seen is None else seen
        self.held_out = held_out_templates(scenario.templates()) if by_template else frozenset()
        self.index = 0

    def __iter__(self) -> Iterator[Example]:
        rejected = 0
        while rejected < _PATIENCE:
            example = self.scenario.make(python_stream(self.seed, self.name, self.index))
            self.index += 1
            if self._fits(example) and (self.repeat or example.id not in self.seen):
                self.seen.add(example.id)
                rejected = 0
                yield example
            else:
                rejected += 1

    def _fits(self, example: Example) -> bool:
        if split_of(example) != self.split:
            return False
        return not self.held_out or (example.template in self.held_out) == (self.split == "test")

    def take(self, count: int) -> list[Example]:
        """Return the next ``count`` examples.

        Raises:
            UserError: the scenario has fewer new examples than that.
        """
        taken = self.up_to(count)
        if len(taken) < count:
            raise UserError(
                f"{self.name}: {count} fresh examples are needed, but the scenario gives only {len(taken)} that were not "
                "used before. Ask for fewer, or give it more material."
            )
        return taken

    def up_to(self, count: int) -> list[Example]:
        """Return the next ``count`` examples, or fewer where the scenario has no more."""
        return list(islice(self, count))
