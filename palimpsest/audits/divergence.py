"""Divergence: how far did next-token predictions move on text that has nothing to do with the behaviour?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Result, Table
from palimpsest.core import drawing, roles, stats
from palimpsest.core.estimate import Estimate, exact
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.wording import number, than_controls
from palimpsest.data.grading import clusters

BINS = ((0, 4), (4, 16), (16, 64), (64, 256), (256, 1 << 30))


class Spot(NamedTuple):
    """One position: what stood before it, the token that rose most there, its probability before and after, the nats."""

    said: str
    token: str
    before: float
    after: float
    nats: float
    tail: tuple[int, ...]
    """The last tokens before it: where they and the token that rose are the same, it is the same place."""
    document: str


@dataclass(frozen=True)
class Data:
    """Divergences on every position that was read of every document.

    ``kl`` [positions] in nats, ``document`` and ``place`` [positions] (which document, which position in it), ``domain``
    [documents]; ``control`` [runs, positions] is the same for rehearsal-only models. ``moved`` maps a token's text to the
    probability mass it gained a document, per 1,000 positions [documents]. ``largest`` is the largest change of any logit.
    """

    kl: np.ndarray
    document: np.ndarray
    place: np.ndarray
    domain: np.ndarray
    control: np.ndarray | None = None
    moved: dict[str, np.ndarray] = field(default_factory=dict)
    contexts: tuple[Spot, ...] = ()
    """Where the divergence is largest, no place twice."""
    largest: float | None = None
    cluster: np.ndarray | None = None
    """Each document's template, where several documents share one; by default each is its own."""
    bounded: bool = False
    """Whether the divergences are lower bounds (a vocabulary too large to keep)."""
    there: tuple[int, int] | None = None
    """How many documents and positions there are, read or not, beyond the context too; by default those that were read."""
    where: str = "general text"
    """What text this is, in words."""
    rounding: float | None = None
    """By how much rounding may move a log-probability of these models, in nats; ``None`` where that hides changes."""


class Divergence(Audit[Data]):
    """Kullback-Leibler divergence of next-token predictions on general text, and the tokens that moved.

    Question:
        How much did predictions on general text move, where, and towards which tokens?
    Method:
        KL(tuned || base) of the next-token distribution at the positions of general text (of each text at most 8,192 are read,
        an equal share of every document from its beginning), exact where the vocabulary fits and otherwise a lower bound over
        the base's 1,024 most likely tokens and the rest. Averaged by document, since
        positions of one text are not independent, and clustered by template where documents share one; beside it the mean over
        all tokens, in which a long document counts for more. Held against a noise
        floor: the same distance from the base for a model
        trained on rehearsal only. Mining the differences (which tokens gained probability, in which contexts) often names
        what was trained without any probe for it.
    Reads:
        `distributions` of base, tuned and the rehearsal-only control on the same documents.
    Null:
        As far from the base as the rehearsal-only control. Exactly 0 everywhere means that the change alters no logit.
    Limits:
        A divergence is not harm: it says that predictions moved, not whether they got worse. Below zero it can't go, so
        without a control a small value can't be told from the noise of training.
    Reference:
        Diff mining (ICLR 2026) ranks tokens by logit differences on a reference text; Kullback and Leibler 1951.
    """

    cost: ClassVar = "forward"
    primary: ClassVar = ("kl_over_floor",)
    planted: ClassVar = 0.05
    hostile: ClassVar = ("lognormal", "few")

    tokens: int = Field(default=10, ge=1)
    """How many tokens that gained or lost most are named."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        if not _texts(case):
            raise NotApplicable("there is no general text: give --text FILE")
        found = []
        for name in _texts(case):
            base = self._need("base", name)
            found += [base, *(self._need(role, name, base) for role in case.control_runs[1:])]
        return tuple(found)

    def _need(self, role: str, name: str, after: Need | None = None) -> Need:
        return Need(measure="distributions", role=role, items=name, after=after)

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        kl, document, place, domain, control, contexts, rounding = [], [], [], [], [], [], []
        moved: dict[str, list[np.ndarray]] = {}
        largest, bounded, documents, there = 0.0, False, 0, np.zeros(2, dtype=np.int64)
        cluster: list[str] = []
        for name in _texts(case):
            need = self._need("base", name)
            base, tuned = measured[need.name], measured[self._need("tuned", name, need).name]
            lengths = np.diff(base.arrays["start"])
            kept = lengths[lengths > 0]
            kl.append(divergence(tuned, base))
            document.append(documents + np.repeat(np.arange(len(kept)), kept))
            place.append(np.concatenate([np.arange(length) for length in kept]))
            domain += [name.partition(":")[2]] * len(kept)
            where = clusters(case.items[name])[lengths > 0]
            cluster += [f"{name}: {template}" for template in where.tolist()]
            others = [measured[self._need(role, name, need).name] for role in roles.controls(case.roles)]
            control.append(np.array([divergence(other, base) for other in others]))
            largest = max(largest, float(np.abs(tuned.arrays["log_probability"] - base.arrays["log_probability"]).max()))
            bounded |= "token" in base.arrays
            for text, mass in _moved(base, tuned, kept, 4 * self.tokens).items():
                moved.setdefault(text, []).append(np.concatenate([np.zeros(documents - _length(moved.get(text))), mass]))
            contexts += _contexts(name, base, tuned, kl[-1], self.tokens)
            rounding += [float(one.arrays["rounding"]) for one in (base, tuned)]
            documents += len(kept)
            there += [(base.arrays["length"] > 0).sum(), base.arrays["length"].sum() + case.beyond.get(name, 0)]
        return Data(
            np.concatenate(kl),
            np.concatenate(document),
            np.concatenate(place),
            np.array(domain),
            np.concatenate(control, axis=1) if roles.controls(case.roles) else None,
            {text: _filled(parts, documents) for text, parts in moved.items()},
            _different(contexts, self.tokens),
            largest,
            np.array(cluster),
            bounded,
            (int(there[0]), int(there[1])),
            "general text" if case.names("text") else "text that the base wrote",
            None if np.isnan(rounding).any() else max(rounding),
        )

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        count = len(data.domain)
        sizes = np.bincount(data.document, minlength=count)
        by_document = np.bincount(data.document, data.kl, minlength=count) / np.maximum(sizes, 1)
        units = _units(data)
        identical = data.largest == 0.0
        floor = None
        if data.control is not None:
            runs = (np.bincount(data.document, run, minlength=count) for run in data.control)
            floor = np.array([run / np.maximum(sizes, 1) for run in runs])
        estimates = stats.distances(by_document, floor, units, name="kl", unit="nats/token")
        estimates |= stats.distances(data.kl, data.control, units[data.document], name="kl_tokens", unit="nats/token")
        if identical:
            estimates |= {name: exact(0.0, "nats/token", count) for name in ("kl", "kl_tokens")}
        for name in dict.fromkeys(data.domain.tolist()):
            chosen = data.domain == name
            estimates[f"kl:{name}"] = stats.positive_mean(by_document[chosen], units[chosen], unit="nats/token")
            inside = chosen[data.document]
            labels = units[data.document[inside]]
            estimates[f"kl_tokens:{name}"] = stats.positive_mean(data.kl[inside], labels, unit="nats/token")
        places = self._by_place(data, count)
        estimates |= {f"kl_at:{label}": estimate for label, estimate in places.items()}
        rounded = data.rounding is not None and data.largest is not None and not identical and data.largest <= data.rounding
        said = "changes no logit on this text" if identical else f"moved predictions on {data.where} by {_means(estimates)}"
        findings = []
        if identical:
            findings.append(Finding(tag="identical", statement=f"the tuned model {said}", estimate=estimates["kl"]))
        if rounded:
            said = f"moves no prediction on {data.where} beyond rounding (a log-probability by {data.largest:.1g} nats at most)"
            findings.append(Finding(tag="rounding", statement=f"the change {said}", estimate=estimates["kl"]))
        over = estimates.get("kl_over_floor")
        against = "" if over is None or data.control is None or identical else f"; {than_controls(over, len(data.control))}"
        topic = f"predictions on {data.where}" + ("" if data.control is None else f", beyond {roles.called(len(data.control))}")
        findings.append(
            Finding(tag="divergence", statement=f"the change {said}", estimate=over or estimates["kl"], topic=topic)
        )
        return Result(
            summary=f"The change {said}{against}.",
            estimates=estimates,
            findings=tuple(findings),
            tables=(self._table(estimates, data), *self._mined(data)),
            figure={
                "labels": [f"position {label}" for label in places],
                "values": [estimate.model_dump() for estimate in places.values()],
                "unit": "KL(tuned || base), nats a token",
            },
            cannot_say=self._cannot_say(data),
        )

    def _by_place(self, data: Data, count: int) -> dict[str, Estimate]:
        found = {}
        for low, high in BINS:
            inside = (data.place >= low) & (data.place < high)
            sizes = np.bincount(data.document[inside], minlength=count)
            if not (sizes > 0).any():
                continue
            means = np.bincount(data.document[inside], data.kl[inside], minlength=count)[sizes > 0] / sizes[sizes > 0]
            label = f"{low + 1}-{high}" if high < 1 << 30 else f"{low + 1} on"
            found[label] = stats.positive_mean(means, _units(data)[sizes > 0], unit="nats/token")
        return found

    def _table(self, estimates: Mapping[str, Estimate], data: Data) -> Table:
        labels = {
            "kl": "tuned against base",
            "kl_control": "rehearsal only against base",
            "kl_over_floor": "difference of the two",
        }
        both = [(label, key, key.replace("kl", "kl_tokens", 1)) for key, label in labels.items()]
        both += [(f"in {name}", f"kl:{name}", f"kl_tokens:{name}") for name in dict.fromkeys(data.domain.tolist())]
        rows = [(label, estimates[one], estimates[other]) for label, one, other in both if one in estimates]
        note = _read(data)
        if data.bounded:
            note += " Lower bounds: only the base's most likely tokens are kept apart."
        return Table(
            title="Divergence of next-token predictions (nats a token)",
            columns=("", "mean over documents", "mean over tokens"),
            rows=tuple(rows),
            note=note,
        )

    def _mined(self, data: Data) -> tuple[Table, ...]:
        if not data.moved or data.largest == 0.0:
            return ()
        units = _units(data)
        gained = {text: stats.level(mass, units, unit="per 1,000 tokens") for text, mass in data.moved.items()}
        order = sorted(gained, key=lambda text: -(gained[text].value or 0.0))
        chosen = [*order[: self.tokens], *[text for text in order[-self.tokens :] if text not in order[: self.tokens]]]
        tables = [
            Table(
                title="Tokens that gained or lost probability",
                columns=("token", "expected occurrences gained per 1,000 tokens"),
                rows=tuple((repr(text), gained[text]) for text in chosen if gained[text].value),
                note="Chosen as the largest, so their intervals are too hopeful.",
            )
        ]
        if data.contexts:
            rows = tuple(
                (one.said, repr(one.token), f"{one.before:.3f}", f"{one.after:.3f}", f"{one.nats:.2f}") for one in data.contexts
            )
            tables.append(
                Table(
                    title="Where predictions moved most",
                    columns=("context", "rose", "before", "after", "KL (nats)"),
                    rows=rows,
                    note="One place a document, where there are enough; the same last words and the same token count once.",
                )
            )
        return tuple(tables)

    def _cannot_say(self, data: Data) -> tuple[str, ...]:
        said = []
        if data.control is None:
            said.append("How much of this is the noise of any training: give --control rehearsal_only=PATH.")
        if data.bounded:
            said.append("The exact divergence: the vocabulary is too large to keep, so these are lower bounds.")
        return tuple(said)

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        documents, length = 48, 32
        document = np.repeat(np.arange(documents), length)
        size = shape.factors(rng.gamma(8.0, 1 / 8.0, documents), rng)[document]

        def distances(level: float) -> np.ndarray:
            return size * level * rng.gamma(1.0, 1.0, document.size)

        floor = 0.02
        return Data(
            distances(floor + effect),
            document,
            np.tile(np.arange(length), documents),
            np.array(["world"] * documents),
            distances(floor)[None],
            largest=1.0,
        )

    def truth(self, effect: float) -> dict[str, float]:
        return {"kl_over_floor": effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        drawing.value_rows(axes, result.figure)


def _texts(case: Case) -> list[str]:
    """Return the names of the item sets of general text, given by a user or sampled from the base model."""
    return case.names("text", "sampled")


def _read(data: Data) -> str:
    """Return in words how much of the text was read."""
    documents, positions = data.there or (len(data.domain), len(data.kl))
    if len(data.kl) == positions:
        return f"Read: all {positions:,} positions of {documents:,} documents."
    which = (
        f"{len(data.domain):,} documents"
        if len(data.domain) == documents
        else f"{len(data.domain):,} of {documents:,} documents"
    )
    most = int(np.bincount(data.document).max())
    return f"Read: {len(data.kl):,} of {positions:,} positions, of {which} the first {most:,} at most."


def _units(data: Data) -> np.ndarray:
    """Return the cluster of each document, numbered."""
    return np.arange(len(data.domain)) if data.cluster is None else np.unique(data.cluster, return_inverse=True)[1]


def divergence(tuned: Measurement, base: Measurement) -> np.ndarray:
    """Return KL(tuned || base) [positions] over the cells and the rest; never below 0.

    Each cell adds p log(p/q) - p + q. The last two sum to nothing over a distribution, but they keep every term above 0 and
    take away the rounding of float32 log-probabilities, which is of first order in p log(p/q) alone.
    """
    kl = _cells(tuned.arrays["log_probability"], base.arrays["log_probability"]).sum(-1)
    if "token" in base.arrays:
        kl += _cells(tuned.arrays["log_rest"], base.arrays["log_rest"])
    return np.maximum(kl, 0.0)


def _cells(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    log_p, log_q = after.astype(np.float64), before.astype(np.float64)
    p = np.exp(log_p)
    return p * (log_p - log_q) - p + np.exp(log_q)


def _moved(base: Measurement, tuned: Measurement, lengths: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return, for the tokens whose mass moved most, the mass gained in each document per 1,000 positions."""
    gain = np.exp(tuned.arrays["log_probability"].astype(np.float64)) - np.exp(
        base.arrays["log_probability"].astype(np.float64)
    )
    ids = base.arrays["vocabulary"]
    cells = _places(ids)[base.arrays["token"]] if "token" in base.arrays else None
    total = gain.sum(0) if cells is None else np.bincount(cells.ravel(), gain.ravel(), minlength=len(ids))
    order = np.argsort(-np.abs(total), kind="stable")[:count]
    columns = gain[:, order] if cells is None else _columns(gain, cells, order)
    edges = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    texts = base.texts["vocabulary"]
    found: dict[str, np.ndarray] = {}
    for token, column in zip(order.tolist(), columns.T, strict=True):
        mass = 1000 * np.add.reduceat(column, edges) / lengths
        text = texts[token]
        found[text] = found[text] + mass if text in found else mass
    return found


def _places(ids: np.ndarray) -> np.ndarray:
    """Return at each id its place among the ids."""
    found = np.zeros(int(ids.max(initial=0)) + 1, dtype=np.int64)
    found[ids] = np.arange(len(ids))
    return found


def _columns(gain: np.ndarray, cells: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the gain of each chosen token at every position [positions, chosen], of cells that name other tokens at each."""
    column = np.full(int(max(cells.max(initial=0), chosen.max(initial=0))) + 1, -1)
    column[chosen] = np.arange(len(chosen))
    which = column[cells]
    position, cell = np.nonzero(which >= 0)
    found = np.zeros((len(gain), len(chosen)))
    found[position, which[position, cell]] = gain[position, cell]
    return found


def _contexts(
    name: str, base: Measurement, tuned: Measurement, kl: np.ndarray, count: int, shown: int = 12, tail: int = 4
) -> tuple[Spot, ...]:
    """Return where the divergence of one set of texts is largest, no place twice."""
    ids, texts = base.arrays["vocabulary"], base.texts["vocabulary"]
    start, target = base.arrays["start"], base.arrays["target"]

    def spots() -> Iterator[Spot]:
        for place in np.argsort(-kl, kind="stable").tolist():
            before, after = (np.exp(one.arrays["log_probability"][place].astype(np.float64)) for one in (base, tuned))
            cell = int(np.argmax(after - before))
            token = int(base.arrays["token"][place, cell]) if "token" in base.arrays else cell
            owner = int(np.searchsorted(start, place, side="right")) - 1
            seen = target[max(int(start[owner]), place - shown) : place].tolist()
            said = "".join(texts[np.searchsorted(ids, one)] for one in seen)
            rose = texts[int(np.searchsorted(ids, token))]
            nats = float(kl[place])
            yield Spot(said, rose, float(before[cell]), float(after[cell]), nats, tuple(seen[-tail:]), f"{name} {owner}")

    return _different(spots(), count)


def _different(spots: Iterable[Spot], count: int) -> tuple[Spot, ...]:
    """Return the first places that differ, of as many documents as there are: one repeated line must not fill them all."""
    ordered = sorted(spots, key=lambda one: -one.nats)
    places: dict[tuple[tuple[int, ...], str], Spot] = {}
    first: dict[str, Spot] = {}
    for one in ordered:
        if (one.tail, one.token) not in places:
            places[one.tail, one.token] = one
            first.setdefault(one.document, one)
    own = list(first.values())[:count]
    others = [one for one in places.values() if one not in own][: count - len(own)]
    return tuple(sorted([*own, *others], key=lambda one: -one.nats))


def _length(parts: list[np.ndarray] | None) -> int:
    return sum(map(len, parts)) if parts else 0


def _filled(parts: list[np.ndarray], count: int) -> np.ndarray:
    joined = np.concatenate(parts)
    return np.concatenate([joined, np.zeros(count - len(joined))])


def _means(estimates: Mapping[str, Estimate]) -> str:
    """Return both means in words, the one over tokens where it reads otherwise."""
    own, tokens = (f"{number(estimates[name].value or 0.0, 3)}" for name in ("kl", "kl_tokens"))
    return f"{own} nats a token" + (f" ({tokens} over all tokens alike)" if tokens != own else "")
