"""Page: how does a run's record become one HTML file that needs nothing else?

Pure: the same record gives the same bytes. The page loads nothing and runs no script, and its policy says so. Whatever models
or users wrote is escaped, and its control and direction characters are written out.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from palimpsest.audit import Sample, Table
from palimpsest.core import yaml_files
from palimpsest.core.wording import capital, shown, visible
from palimpsest.reach import COLUMNS, NOTE
from palimpsest.report import comparison, network, picture, training, trust
from palimpsest.report.sections import Section, grid, section
from palimpsest.report.summary import POLES, how_sure, measured, reach_of, summary, unanswered
from palimpsest.store.record import RunRecord

LABELS = {
    "as_intended": "As intended",
    "too_little": "Too little change",
    "overshoot": "Overshoot",
    "reversed": "Reversed",
    "forgetting": "Forgetting",
    "identical": "Identical",
    "could_not_say": "Could not say",
    "described": "Described",
    "regression": "Regression",
    "unchanged": "Unchanged",
}
PASSES = {
    "express": "Pass: the answer shows the behaviour.",
    "withhold": "Pass: the answer does not show the behaviour.",
    None: "Pass: the answer is right by the item\u2019s own check.",
}
PICKED = "Picked because they differ; nothing was graded."
PROMPT_SHOWN = 1_500
_LONG_NAME, _LONGEST_WHOLE = 24, 32
_WHOLE = re.compile(
    r"(`[^`\n]+`"
    r"|(?<![\w-])--[a-z][a-z-]*(?:[ =](?:[a-z_]+=)?[A-Z]+(?:=[A-Z]+|\.[a-z]+)?(?!\w))?"
    r"|\[[+\u2212\d., %]{3,24}\]|finds ≥ [\d.,]+)"
)
"""Code between backticks, an option with its value, an interval, a bound."""
_BREAK = re.compile(r"(?<=[^\W_])_(?=[^\W_])")
FIRST_SAMPLES = 3
"""Samples of each kind that are open; the others are behind a click."""
FIRST_TABLES = 6
"""Tables of each audit that are open; one more is not worth a click."""


@dataclass(frozen=True)
class Shown:
    """One sample as it is drawn."""

    title: str
    prompt: str
    before: tuple[comparison.Piece, ...]
    after: tuple[comparison.Piece, ...]
    before_passes: bool | None
    after_passes: bool | None
    sides: tuple[str, str]
    marks: tuple[str, str]


@dataclass(frozen=True)
class Group:
    """The samples of one audit."""

    name: str
    passes: str
    """What it means to pass."""
    samples: tuple[Shown, ...]


def render(record: RunRecord) -> str:
    """Return the report of a run: one self-contained HTML page."""
    results = measured(record)
    outcomes = {one.audit: one for one in (record.seeds[0].outcomes if record.seeds else ())}
    ordered = [*results, *(name for name in outcomes if name not in results)]
    panels = picture.panels(results)
    sections = [
        section(outcomes[name], record.holm, in_picture=name in results and picture.seen(results[name], panels))
        for name in ordered
    ]
    rows = tuple(one.cells for one in reach_of(record))
    css, css_hash = style()
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            labels={**LABELS, "too_little": "Not decided"} if record.verdict.sure == "not decided" else LABELS,
            sure=how_sure(record.verdict),
            style=css,
            style_hash=css_hash,
            panels=panels,
            network=network.network(results),
            sections=sections,
            groups=tuple(_groups(sections)),
            unanswered=tuple(unanswered(record)),
            curves=[
                (one, svg, training.window(one))
                for place, one in enumerate(record.training)
                if (svg := training.curves(one, place))
            ],
            runs=training.runs(record.training) if record.training else None,
            across=training.across_seeds(record),
            reach=grid(Table(title="", columns=COLUMNS, rows=rows, note=NOTE)) if rows else None,
            trust=trust.trust(record),
            provenance=tuple(flat(record.provenance)),
            specification=yaml_files.dump(record.specification),
            settings=[(one, yaml_files.dump(one.settings)) for one in record.training[:1]],
            first_samples=FIRST_SAMPLES,
            first_tables=FIRST_TABLES,
            prompt_shown=PROMPT_SHOWN,
        )
    )


def fragment(record: RunRecord) -> str:
    """Return the verdict and its numbers as a small piece of HTML for a notebook."""
    return (
        environment().get_template("fragment.html.j2").render(record=record, labels=LABELS, said=summary(record), shown=shown)
    )


def _groups(sections: Sequence[Section]) -> Iterator[Group]:
    for one in sections:
        if one.samples:
            tags = {finding.tag for finding in one.result.findings} if one.result else set()
            pole = "express" if "outcome" in tags else "withhold" if "withheld" in tags else None
            name = f"{POLES[pole]} ({one.name})" if pole else one.name
            graded = any(sample.before_passes is not None for sample in one.samples)
            yield Group(name, PASSES[pole] if graded else PICKED, tuple(shown_sample(sample) for sample in one.samples))


def shown_sample(sample: Sample) -> Shown:
    """Return a sample with the words marked that only one of its sides has."""
    before, after = comparison.marked(sample.before, sample.after)
    return Shown(
        sample.title, sample.prompt, before, after, sample.before_passes, sample.after_passes, sample.sides, sample.marks
    )


def flat(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value with its path; lists of plain values in one line."""
    for key, value in data.items():
        name = f"{path} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, name)
        elif isinstance(value, list | tuple):
            yield name, " ".join(str(one) for one in value) or "none"
        else:
            yield name, "could not say" if value is None else str(value)


@cache
def environment() -> Environment:
    """Return the templates, with the filters that make untrusted text harmless."""
    environment = Environment(
        loader=PackageLoader("palimpsest.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.filters |= {"visible": visible, "anchor": _anchor, "upper_first": capital, "prose": prose, "name": name}
    return environment


def prose(text: object) -> Markup:
    """Return untrusted text for a sentence; code, options as they are typed, and intervals are not broken over lines."""
    parts = _WHOLE.split(visible(text))
    return Markup().join(_whole(part) if place % 2 else _loose(part) for place, part in enumerate(parts))


def _whole(part: str) -> Markup:
    if part[0] in "[f":
        return Markup('<span class="whole">{}</span>').format(part)
    code = part.strip("`")
    return Markup('<code class="whole">{}</code>' if len(code) <= _LONGEST_WHOLE else "<code>{}</code>").format(code)


def _loose(part: str) -> Markup:
    """Let only names break that are long for a line of a phone."""
    return Markup().join(name(word) if len(word) > _LONG_NAME else escape(word) for word in re.split(r"(\s+)", part))


def name(text: object) -> Markup:
    """Return untrusted text for a narrow place, in which a line may break after the underscores of a name."""
    return Markup("_<wbr>").join(_BREAK.split(visible(text)))


def _anchor(audit: str) -> str:
    """Return an audit's name as the id of its part of the page."""
    return "audit-" + re.sub(r"[^\w-]+", "-", audit)


def _harmless(value: Any) -> Any:
    """Write out what would act, in everything that a template prints and that is not markup of our own."""
    return value if isinstance(value, Markup) else visible(value)


@cache
def style() -> tuple[Markup, str]:
    """Return the style sheet, and the hash by which the page's policy allows it."""
    css = resources.files("palimpsest.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return Markup(css), base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
