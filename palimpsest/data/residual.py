"""Residual: what do stored activations say of a change?

Pure functions from measurements of ``activations`` to estimates, for audits that look at the residual stream. Depths count from
0 (what enters the first block); averages are over the depths after a block, and over a set's leading places: of a conversation
the decision, of a text its first tokens but the very first, which is unlike all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.measurement import Measurement
from palimpsest.core.stats.spread import quantile
from palimpsest.core.stats.vectors import Cloud, Jackknifed, common_length, common_square, effective_rank
from palimpsest.data.chat import Example

UNIT = "% of length"
_ROUNDING = 1e-6
"""Nats; logits are read in float32."""


@dataclass(frozen=True)
class Moved:
    """How one model's residual stream differs from the base's on one group of items.

    ``difference`` [items, depths, slots, width], ``length`` [items, depths, slots] of the base's residual stream, ``present``
    [items, slots], ``cluster`` [items], ``depth`` [depths], ``slots`` (the names of the places).
    """

    difference: np.ndarray
    length: np.ndarray
    present: np.ndarray
    cluster: np.ndarray
    depth: np.ndarray
    slots: tuple[str, ...]

    @cached_property
    def inside(self) -> list[int]:
        """Which depths lie after a block."""
        return np.flatnonzero(self.depth > 0).tolist()

    @cached_property
    def lead(self) -> list[int]:
        """The places that averages are over."""
        return leading(self.slots)

    @cached_property
    def share(self) -> np.ndarray:
        """Length of each difference in percent of the base's residual stream [items, depths, slots]."""
        return 100 * np.linalg.norm(self.difference, axis=-1) / np.maximum(self.length, 1e-30)

    @property
    def at_all(self) -> bool:
        return bool(self.share.any())

    def by_item(self, depths: Sequence[int], slots: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return each item's shift in percent, its root mean square over depths and slots, and the items' clusters."""
        slots = self.lead if slots is None else slots
        kept = self.present[:, slots].all(1)
        return np.sqrt(np.square(self.share[kept][:, depths][:, :, slots]).mean((1, 2))), self.cluster[kept]

    def shift(self, depths: Sequence[int] | None = None, slots: Sequence[int] | None = None) -> Estimate:
        """Return the mean shift of the items that have these slots."""
        values, labels = self.by_item(self.inside if depths is None else depths, slots)
        return (
            _told(stats.positive_mean(values, labels, unit=UNIT, computed=True))
            if values.size
            else unknown(UNIT, 0, "no item has this place")
        )

    def common(self, depths: Sequence[int] | None = None, slots: Sequence[int] | None = None) -> Estimate:
        """Return the length of the shift that all items have in common."""
        square = self.common_square(self.inside if depths is None else depths, self.lead if slots is None else slots)
        if square is None:
            return unknown(UNIT, 0, "no two clusters have this place")
        return _told(common_length(square, unit=UNIT, scale=100.0))

    def common_square(self, depths: Sequence[int], slots: Sequence[int]) -> Jackknifed | None:
        """Return its square, as a share of the square of the residual stream's length."""
        kept = self.present[:, slots].all(1)
        if len(set(self.cluster[kept].tolist())) < 2:
            return None
        cloud = self.lead_cloud if slots == self.lead else self.cloud(slots)
        chosen = [place * len(self.depth) + depth for place in range(len(slots)) for depth in depths]
        lengths = self.length[kept][:, :, slots].transpose(2, 1, 0).reshape(-1, int(kept.sum()))
        return common_square(cloud.at(chosen), lengths[chosen])

    def rank(self) -> Estimate:
        """Return in how many directions the items moved."""
        return effective_rank(self.within(self.lead_cloud))

    @cached_property
    def lead_cloud(self) -> Cloud:
        return self.cloud(self.lead)

    def within(self, cloud: Cloud) -> Cloud:
        """Return the layers of a cloud that are depths after a block."""
        layers = len(cloud.vectors) // len(self.depth)
        return cloud.at([place * len(self.depth) + depth for place in range(layers) for depth in self.inside])

    def cloud(self, slots: Sequence[int]) -> Cloud:
        """Return the differences of the items that have all these slots; a layer is a depth of a slot, slots outermost."""
        kept = self.present[:, slots].all(1)
        chosen = self.difference[kept][:, :, slots].transpose(2, 1, 0, 3)
        return Cloud(chosen.reshape(-1, *chosen.shape[2:]), self.cluster[kept])


@dataclass(frozen=True)
class Reading:
    """What the mean difference on one item set says through the logit lens; see the measure ``activations`` for the arrays."""

    nats: np.ndarray
    random: np.ndarray
    folds: np.ndarray
    tokens: tuple[tuple[tuple[tuple[str, ...], ...], ...], ...]
    """The most likely ones by depth, slot and sign (the difference, its negative)."""
    random_tokens: tuple[str, ...]
    """Of one random direction, at the middle depth of the first slot."""
    names: np.ndarray
    """Whether one of the most likely tokens begins an answer of the behaviour [depths, slots, 2]."""
    random_names: np.ndarray
    """The same of random directions [depths, slots, directions]."""


def leading(slots: Sequence[str]) -> list[int]:
    """Return the places that averages are over: the decision, or a text's first tokens without the very first."""
    tokens = [slot for slot, name in enumerate(slots) if name.startswith("token ")]
    return tokens[1:] or tokens or [0]


def _told(estimate: Estimate) -> Estimate:
    """Return an estimate that says shortly why it has no interval: all items have the same tokens up to this place."""
    if estimate.interval is None and "spread" in estimate.method:
        return estimate.model_copy(update={"method": "could not say: the same in every item"})
    return estimate


def first_words(items: Sequence[Example]) -> frozenset[str]:
    """Return the words, in lower case, with which answers of the behaviour may begin."""
    answers = {text for item in items for text in item.options.values()}
    answers = answers or {item.text_of(item.decisions[0]) for item in items}
    words = (re.findall(r"\w+", answer.lower()) for answer in answers)
    return frozenset(found[0] for found in words if found)


def _begins(token: str, words: frozenset[str]) -> bool:
    said = token.strip().lower()
    return len(said) >= 2 and any(word.startswith(said) for word in words)


def reading(one: Measurement, words: frozenset[str] = frozenset()) -> Reading:
    """Return what was read on one item set.

    Args:
        one: of ``activations``.
        words: with which answers of the behaviour may begin.
    """
    texts = dict(zip(one.arrays["vocabulary"].tolist(), one.texts["vocabulary"], strict=True))

    def named(ids: np.ndarray) -> tuple[str, ...]:
        return tuple(texts[token] for token in ids.tolist() if token >= 0)

    tokens = tuple(tuple(tuple(named(sign) for sign in slot) for slot in depth) for depth in one.arrays["lens_token"])
    random = named(one.arrays["random_token"][len(tokens) // 2, 0, 0])
    begins = [token for token, text in texts.items() if _begins(text, words)]
    names, others = (np.asarray(np.isin(one.arrays[key], begins).any(-1)) for key in ("lens_token", "random_token"))
    return Reading(one.arrays["lens_nats"], one.arrays["random_nats"], one.arrays["fold_nats"], tokens, random, names, others)


def named(readings: Sequence[Reading], depths: Sequence[int], slots: Sequence[int]) -> tuple[Estimate, float]:
    """Return which share of readings name how an answer begins, and of which share of random directions this is so.

    A reading is that of the mean difference or of its negative at one depth and slot; they are not independent, so there is no
    interval.
    """
    place = np.ix_(depths, slots)
    own, random = (np.concatenate([array[place].ravel() for array in arrays]) for arrays in _names(readings))
    why = "could not say: readings of one change are not independent"
    return Estimate(value=float(own.mean()), unit="share", n=len(own), interval=None, method=why), float(random.mean())


def _names(readings: Sequence[Reading]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [one.names for one in readings], [one.random_names for one in readings]


def said(readings: Sequence[Reading], depths: Sequence[int], slots: Sequence[int]) -> tuple[Estimate, float | None]:
    """Return how much mean differences say beyond random directions (nats), and p: the share of those that say as much.

    A direction says as much as the more telling of itself and its negative. Averaged over item sets, depths and slots; a
    jackknife over the folds of the templates of each set.
    """
    place = np.ix_(depths, slots)
    own = np.stack([one.nats[place].max(-1) for one in readings])
    if np.isnan(own).any():
        return unknown("nats", 0, "nothing moved there, so there is nothing to read"), None
    value, chance = float(own.mean()), np.stack([one.random[place].max(-1) for one in readings]).mean((0, 1, 2))
    parts = [one.folds[place].max(-1).mean((0, 1)) for one in readings]
    error = float(np.sqrt(sum((len(part) - 1) * part.var() for part in parts))) / len(parts)
    count, beyond = min(map(len, parts)), value - float(chance.mean())
    p_value = float((1 + (chance >= value).sum()) / (1 + len(chance)))
    if count < stats.FEWEST_CLUSTERS or error <= _ROUNDING:
        few = f"{count} parts of templates, {stats.FEWEST_CLUSTERS} are needed"
        why = few if count < stats.FEWEST_CLUSTERS else "every template moved alike, so that the spread is not known"
        return Estimate(value=beyond, unit="nats", n=count, interval=None, method=f"could not say: {why}"), p_value
    reach = quantile(0.975, count - 1) * error
    method = f"jackknife over {count} parts of the templates"
    return Estimate(value=beyond, unit="nats", n=count, interval=(beyond - reach, beyond + reach), method=method), p_value
