"""Style: did the writing change where it shouldn't?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Result, Sample, Table
from palimpsest.core import drawing, roles, stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.roles import CONTROL
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.wording import capital, chance, counted, moved, one_line
from palimpsest.data import writing
from palimpsest.data.grading import clusters

KINDS = ("withhold", "capability", "text", "sampled")
"""Where the behaviour should not appear."""
TRAITS: dict[str, tuple[str, str]] = {
    "length": ("length", "tokens"),
    "coherence": ("surprise of both models", "nats/token"),
    "surprise": ("surprise of the base", "nats/token"),
    "stopped": ("ended by itself", "rate"),
    "distinct_words": ("different words", "points"),
    "distinct_pairs": ("different word pairs", "points"),
    "repeated": ("repeated runs of 3 words", "points"),
    "capitals": ("capitals among letters", "points"),
    "punctuation": ("punctuation", "points"),
    "digits": ("digits", "points"),
    "line_breaks": ("with line breaks", "rate"),
    "lists": ("with a list", "rate"),
    "code": ("with code", "rate"),
}
"""Of each trait its name and unit; a ``rate`` is 0 or 1 for each answer."""
SAID = {
    "length_change": ("length changed by {}", "length is unchanged"),
    "coherence_change": (
        "surprise to both models together changed by {}",
        "to both models together they are as surprising as before",
    ),
}
"""How a change is told, and how none."""


@dataclass(frozen=True)
class Written:
    """What one model wrote, beside what the base wrote.

    ``wording`` [items, features] is the difference of both texts' features; ``traits`` maps a trait to its values before and
    after [items], NaN where a text is too short for it.
    """

    wording: np.ndarray
    traits: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Data:
    """Texts of both models for the same prompts, as numbers.

    ``reverse`` holds two losses of each item [2, items], nats a token: the base's text read by the tuned model, and the tuned
    model's text read by itself. ``before`` and ``after`` [items, phrases] say which text holds which phrase.
    """

    tuned: Written
    clusters: np.ndarray
    sets: np.ndarray
    reverse: np.ndarray
    phrases: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray
    controls: tuple[Written, ...] = ()
    texts: tuple[tuple[str, str, str, str], ...] = field(default=(), repr=False)
    """Of each item its title, its prompt and both texts."""

    @property
    def same(self) -> bool:
        """Whether both models wrote the same words and lost the same on each of them, to the last bit."""
        return not self.tuned.wording.any() and np.array_equal(self.reverse, np.stack(self.tuned.traits["surprise"]))


class Style(Audit[Data]):
    """What both models write where the behaviour should not appear, told apart by a classifier and trait by trait.

    Question:
        Did the writing change where it shouldn't?
    Method:
        Base and tuned answer the same prompts with the same dice: the withheld pole, every ability, and the beginnings of
        general texts, which they go on from. A ridge classifier on words and runs of characters learns from pairs of some
        templates to tell the tuned model's text from the base's, and is asked about pairs of others; the AUROC is the share of
        prompts in which it picks the right one (half is guessing, and so are pairs that are the same). Length, variety over as
        many words as both texts have, and layout are changes paired by item and clustered by template, held against a
        margin of a fifth of the spread between answers. Coherence: the loss of both models
        together on what each wrote, token by token; a model's loss on another's text alone is higher wherever they differ.
        Phrases are chosen on one half of the templates and measured on the other.
    Reads:
        `generations` of base, tuned and the rehearsal-only control; `losses_of_answers` of base and tuned on each other's.
    Null:
        Labels swapped between base and tuned in whole templates (AUROC); no change (traits). A rehearsal-only control shows
        what training without the behaviour does.
    Limits:
        One text a prompt. The classifier sees words and characters, no meaning, and the best one would do better. The withheld
        pole was trained on, so its writing may be meant to change; the table by set shows where it did. A change is not a harm.
    Reference:
        Lopez-Paz and Oquab 2017, arXiv 1610.06545 (classifier two-sample test); Li et al. 2016, arXiv 1510.03055 (distinct-n);
        Covington and McFall 2010 (a window of fixed size); Cohen 1988 (a fifth of the spread is small).
    """

    cost: ClassVar = "generate"
    primary: ClassVar = ("length_change", "coherence_change")
    planted: ClassVar = 0.2
    hostile: ClassVar = ("lognormal", "Zipf sizes")

    margin: float = Field(default=0.2, gt=0)
    """A change below this share of the spread between answers counts as unchanged."""
    opening: int = Field(default=16, ge=1)
    """Tokens of a general text that are given to go on from."""
    continuation: int = Field(default=48, ge=1)
    """Tokens written after them."""
    phrases: int = Field(default=10, ge=0)
    samples: int = Field(default=6, ge=0)
    pairs: int = Field(default=2_000, ge=64)
    """The classifier is trained and asked on so many pairs at most, drawn at random."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        if not case.names(*KINDS):
            raise NotApplicable("there is nothing to write on: give --text FILE, or a behaviour with a 'withhold' pole")
        found = []
        for name in case.names(*KINDS):
            found += [self._answers(case, role, name) for role in case.control_runs]
            found += [self._losses(case, "base", name, writer) for writer in case.with_controls(CONTROL)]
            found += [self._losses(case, "tuned", name, writer) for writer in ("base", "tuned")]
        return tuple(found)

    def _answers(self, case: Case, role: str, name: str) -> Need:
        if name.partition(":")[0] not in ("text", "sampled"):
            return case.answers(role, name)
        how = {**case.generation, "max_new_tokens": self.continuation, "opening": self.opening}
        return Need(measure="generations", role=role, items=name, parameters=how)

    def _losses(self, case: Case, reader: str, name: str, writer: str) -> Need:
        return Need(measure="losses_of_answers", role=reader, items=name, after=self._answers(case, writer, name))

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        names = case.names(*KINDS)
        answers = {role: [measured[self._answers(case, role, name).name] for name in names] for role in case.control_runs}
        texts = {role: [text for one in found for text in one.texts["answer"]] for role, found in answers.items()}

        def losses(reader: str, writer: str) -> np.ndarray:
            return np.concatenate([measured[self._losses(case, reader, name, writer).name].arrays["nats"] for name in names])

        reverse = np.stack([losses("tuned", "base"), losses("tuned", "tuned")])

        def written(role: str) -> Written:
            traits = writing.paired(texts["base"], texts[role])
            for trait, key in (("length", "tokens"), ("stopped", "stopped")):
                one, two = (np.concatenate([found.arrays[key] for found in answers[who]]) for who in ("base", role))
                traits[trait] = one.astype(float), two.astype(float)
            if role in case.with_controls(CONTROL):
                traits["surprise"] = losses("base", "base"), losses("base", role)
            if role == "tuned":
                traits["coherence"] = _by_both(traits["surprise"], reverse)
            return Written(writing.differences(texts["base"], texts[role]), traits)

        items = [(f"{_set_name(name)}: {item.template}", item.context) for name in names for item in case.items[name].items]
        given = [text for one in answers["base"] for text in one.texts.get("given", [""] * len(one.texts["answer"]))]
        return Data(
            written("tuned"),
            np.concatenate([clusters(case.items[name]) for name in names]),
            np.array([_set_name(name) for name in names for _ in case.items[name].items]),
            reverse,
            *writing.phrase_table(texts["base"], texts["tuned"]),
            tuple(written(role) for role in roles.controls(case.roles)),
            tuple(
                (one_line(title, 80), begun or prompt, one, two)
                for (title, prompt), begun, one, two in zip(items, given, texts["base"], texts["tuned"], strict=True)
            ),
        )

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        chosen = np.arange(len(data.clusters))
        if len(chosen) > self.pairs:
            chosen = np.sort(rng.choice(len(chosen), self.pairs, replace=False))
        where = data.clusters[chosen]
        apart = stats.told_apart(data.tuned.wording[chosen], where, rng, data.sets[chosen])
        estimates = {"auroc": apart.auroc}
        if data.controls:
            floors = [stats.told_apart(control.wording[chosen], where, rng) for control in data.controls]
            estimates["auroc_control"] = floors[0].auroc
            estimates["auroc_over_control"] = stats.auroc_difference(floors, apart, where)
        estimates |= self._traits(data) | _reading(data)
        told = {"auroc": _told_apart(estimates, apart.groups)}
        told |= {key: moved(estimates[key], *words) for key, words in SAID.items()}
        summary = "; ".join(told.values())
        tables = _apart_table(estimates, apart), _trait_table(estimates), _set_table(data, apart), _reading_table(estimates)
        return Result(
            summary=f"{capital(summary)}.",
            estimates=estimates,
            findings=tuple(
                Finding(tag="style", subject=key, statement=words, estimate=estimates[key], topic=f"style: {key}")
                for key, words in told.items()
            ),
            tables=(*tables, *self._phrases(data, rng)),
            figure=self._figure(estimates),
            samples=self._surest(data, chosen, apart.margins),
            cannot_say=tuple(_cannot_say(estimates, data)),
        )

    def _traits(self, data: Data) -> dict[str, Estimate]:
        found, where = {}, data.clusters
        for trait, (_, unit) in TRAITS.items():
            before, after = data.tuned.traits[trait]
            margin = self.margin * stats.spread(before, after) or None
            found[f"{trait}_before"] = stats.trait_level(before, where, unit=unit)
            found[f"{trait}_after"] = stats.trait_level(after, where, unit=unit)
            found[f"{trait}_change"] = stats.trait_change(before, after, where, unit=unit, margin=margin, same=data.same)
            if data.controls and trait in data.controls[0].traits:
                floor = stats.trait_change(*data.controls[0].traits[trait], where, unit=unit, margin=margin)
                found[f"{trait}_change_control"] = floor
        return found

    def _figure(self, estimates: Mapping[str, Estimate]) -> dict[str, object]:
        changes = {TRAITS[trait][0]: estimates[f"{trait}_change"] for trait in TRAITS}
        drawn = {label: one.scaled(self.margin / one.margin, "SD").model_dump() for label, one in changes.items() if one.margin}
        known = {"labels": list(drawn), "changes": list(drawn.values()), "margin": self.margin, "worse": "neither"}
        return {**known, "unit": "change, in standard deviations between texts"} if drawn else {}

    def _phrases(self, data: Data, rng: np.random.Generator) -> tuple[Table, ...]:
        """Return the phrases that one half of the clusters tells apart most clearly, measured on the other half."""
        halves = stats.halves(data.clusters, rng) if data.phrases and self.phrases else None
        if halves is None:
            return ()
        choose, tell = halves
        came = data.after.astype(np.float64) - data.before
        order = stats.clearest(came[choose], data.clusters[choose])
        rows, where = [], data.clusters[tell]
        for place in writing.not_nested(data.phrases, order)[: self.phrases]:
            before, after = (table[tell, place].astype(float) for table in (data.before, data.after))
            change = stats.rate_difference(before, after, where)
            rows.append(
                (f"“{writing.joined(data.phrases[place])}”", stats.rate(before, where), stats.rate(after, where), change)
            )
        note = "Chosen on one half of the templates and measured on the other, so that being chosen does not flatter them."
        columns = ("", "texts that hold it before", "after", "change")
        return (Table(title="Phrases that tell them apart", columns=columns, rows=tuple(rows), note=note),) if rows else ()

    def _surest(self, data: Data, chosen: np.ndarray, margins: np.ndarray) -> tuple[Sample, ...]:
        """Return the pairs that were told apart most surely: the surest of each set, then the second of each."""
        seen: Counter[str] = Counter()
        ranked = []
        for place in np.argsort(-margins, kind="stable").tolist() if data.texts else ():
            if margins[place] > 0:
                name = str(data.sets[chosen[place]])
                ranked.append((seen[name], len(ranked), data.texts[chosen[place]]))
                seen[name] += 1
        return tuple(
            Sample(title=title, prompt=prompt, before=one, after=two)
            for _, _, (title, prompt, one, two) in sorted(ranked)[: self.samples]
        )

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        count, size, vocabulary = 24, 8, 48
        template = shape.labels(count, size)
        differs = rng.random(template.size) < rng.beta(3.0, 2.0, count)[template]  # the rest are the same, word for word
        usual = rng.lognormal(2.8, 0.4, count)
        common = rng.dirichlet(np.full(vocabulary, 0.3))
        mix = np.array([rng.dirichlet(20 * common + 0.02) for _ in range(count)])
        level = rng.gamma(9.0, 0.2, count)

        def text(shift: float) -> tuple[np.ndarray, ...]:
            shift = shift / 0.6  # three in five texts are free to differ
            own = shift * shape.factors(rng.gamma(16.0, 1 / 16, count), rng)[template]
            length = 1 + rng.poisson(usual[template] * rng.gamma(3.0, 1 / 3, template.size) + 40 * own)
            chances = mix[template] * (1 - np.minimum(own, 1.0))[:, None]
            chances[:, 0] += np.minimum(own, 1.0)
            loss = level[template] * rng.gamma(8.0, 1 / 8, template.size) + own
            return length.astype(float), rng.multinomial(length, chances / chances.sum(1, keepdims=True)), loss

        base = text(0.0)

        def written(shift: float) -> tuple[Written, np.ndarray]:
            length, counts, loss = (
                np.where(differs.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                for old, new in zip(base, text(shift), strict=True)
            )
            traits = {trait: (np.zeros(template.size), np.zeros(template.size)) for trait in TRAITS}
            varied = [(held > 0).sum(1) / held.sum(1) for held in (base[1], counts)]
            traits |= {"length": (base[0], length), "surprise": (base[2], loss), "distinct_words": (varied[0], varied[1])}
            unit = [held / np.linalg.norm(held, axis=1, keepdims=True) for held in (base[1], counts)]
            return Written(unit[1] - unit[0], traits), counts

        (tuned, counts), (control, _) = written(effect), written(0.0)
        foreign = 0.1 * effect * np.array([[1.0], [-1.0]]) * rng.gamma(4.0, 0.25, template.size)
        reverse = np.stack(tuned.traits["surprise"]) + foreign
        tuned.traits["coherence"] = _by_both(tuned.traits["surprise"], reverse)
        names = tuple(f"word {place}" for place in range(vocabulary))
        sets = np.where(template % 2, "one set", "another set")
        return Data(tuned, template, sets, reverse, names, base[1] > 0, counts > 0, (control,))

    def truth(self, effect: float) -> dict[str, float]:
        return {"length_change": 40 * effect, "coherence_change": 0.9 * effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        if result.figure:
            drawing.change_rows(axes, result.figure)


def _by_both(by_base: tuple[np.ndarray, np.ndarray], by_tuned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean loss of both readers on the base's texts and on the tuned model's [items each]; neither is at home."""
    return (by_base[0] + by_tuned[0]) / 2, (by_base[1] + by_tuned[1]) / 2


def _reading(data: Data) -> dict[str, Estimate]:
    """Return what each model's text costs the other one beyond its own."""
    by_base_of_base, by_base_of_tuned = data.tuned.traits["surprise"]
    by_tuned_of_base, by_tuned_of_tuned = data.reverse
    where, unit = data.clusters, "nats/token"
    return {
        "tuned_reads_base": stats.level(by_tuned_of_base, where, unit=unit),
        "tuned_reads_tuned": stats.level(by_tuned_of_tuned, where, unit=unit),
        "on_base_text": stats.mean_difference(by_base_of_base, by_tuned_of_base, where, unit=unit, same=data.same),
        "on_tuned_text": stats.mean_difference(by_base_of_tuned, by_tuned_of_tuned, where, unit=unit, same=data.same),
        "own_text": stats.mean_difference(by_base_of_base, by_tuned_of_tuned, where, unit=unit, same=data.same),
    }


def _apart_table(estimates: Mapping[str, Estimate], apart: stats.Apart) -> Table:
    names = {"auroc": "tuned, base", "auroc_control": "rehearsal only, base", "auroc_over_control": "more than rehearsal only"}
    rows = [(name, estimates[key], chance(estimates[key].p_value)) for key, name in names.items() if key in estimates]
    note = "Guessing is right in 50% of pairs."
    if apart.guessing is not None:
        low, high = apart.guessing
        note += f" With swapped labels it was right in {100 * low:.0f}% to {100 * high:.0f}%."
    title = "How often a classifier tells which text of a pair came after (AUROC)"
    return Table(title=title, columns=("", "right", "p"), rows=tuple(rows), note=note)


def _trait_table(estimates: Mapping[str, Estimate]) -> Table:
    parts = {"before": "before", "after": "after", "change": "change", "change_control": "rehearsal only: change"}
    shown = [trait for trait in TRAITS if estimates[f"{trait}_change"].margin]
    rows = tuple((TRAITS[trait][0], *(estimates.get(f"{trait}_{part}") for part in parts)) for trait in shown)
    note = "Variety of words is read over as many words as both texts have."
    return Table(title="How it is written", columns=("", *parts.values()), rows=rows, note=note)


def _set_table(data: Data, apart: stats.Apart) -> Table:
    rows, still = [], []
    for name in sorted(set(data.sets.tolist()), key=lambda name: (-_value(apart.groups.get(name)), name)):
        here = data.sets == name
        where, same = data.clusters[here], 1.0 - data.tuned.wording[here].any(axis=1)
        if same.all():
            still.append(name)
            continue
        changes = []
        for trait in ("length", "surprise"):
            before, after = data.tuned.traits[trait]
            changes.append(stats.trait_change(before[here], after[here], where, unit=TRAITS[trait][1]))
        rows.append((name, int(here.sum()), apart.groups.get(name), stats.rate(same, where), *changes))
    columns = ("", "texts", "told apart", "the same in both", "change in length", "change in surprise of the base")
    note = "Told apart: 50% is guessing." + (f" The same in every text: {', '.join(still)}." if still else "")
    return Table(title="Where the writing changed", columns=columns, rows=tuple(rows), note=note)


def _value(one: Estimate | None) -> float:
    return 0.0 if one is None or one.value is None else one.value


def _set_name(name: str) -> str:
    kind, _, own = name.partition(":")
    return {"withhold": "where it should not appear", "sampled": "the base's own text"}.get(kind, own)


def _reading_table(estimates: Mapping[str, Estimate]) -> Table:
    rows = {
        "written by the base": ("surprise_before", "tuned_reads_base", "on_base_text"),
        "written by the tuned model": ("surprise_after", "tuned_reads_tuned", "on_tuned_text"),
        "each its own": ("surprise_before", "tuned_reads_tuned", "own_text"),
    }
    return Table(
        title="How much a text surprises each model",
        columns=("", "the base", "the tuned model", "difference"),
        rows=tuple((name, *(estimates[key] for key in keys)) for name, keys in rows.items()),
        note="Less surprise at its own text than the base has at its own: the tuned model writes with less variety.",
    )


def _told_apart(estimates: Mapping[str, Estimate], groups: Mapping[str, Estimate]) -> str:
    auroc, control = estimates["auroc"], estimates.get("auroc_control")
    if auroc.value is None:
        return "whether a classifier tells both models' writing apart could not be said"
    if auroc.interval == (0.5, 0.5):
        return "both models write exactly the same"
    told = f"a classifier tells which text came after in {100 * auroc.value:.0f}% of pairs (50% is guessing"
    told += f", rehearsal only: {100 * control.value:.0f}%)" if control is not None and control.value is not None else ")"
    if auroc.p_value is None or auroc.p_value >= 0.05:
        return f"{told}, no more than chance gives"
    clear = stats.holm({name: one.p_value for name, one in groups.items()})
    most = sorted((name for name in groups if clear[name]), key=lambda name: -_value(groups[name]))[:3]
    where = ", ".join(f"{name} {100 * _value(groups[name]):.0f}%" for name in most)
    return f"{told}, most in: {where}" if most and len(groups) > 1 else told


def _cannot_say(estimates: Mapping[str, Estimate], data: Data) -> list[str]:
    said = []
    if not estimates["auroc"].known:
        said.append(f"Whether a classifier tells them apart: {estimates['auroc'].method.removeprefix('could not say: ')}.")
    count = len(np.unique(data.clusters))
    if count < 2 * stats.FEWEST_CLUSTERS:
        said.append(f"Which phrases tell them apart: {count} templates, {2 * stats.FEWEST_CLUSTERS} are needed.")
    if not data.controls:
        said.append("How much of this is the noise of any training: give --control rehearsal_only=PATH.")
    short = int(np.isnan(data.tuned.traits["distinct_words"][0]).sum())
    if short:
        said.append(
            f"How varied the words are in {counted(short, 'pair')} in which a text has fewer than {writing.WINDOW[0]} words."
        )
    return said
