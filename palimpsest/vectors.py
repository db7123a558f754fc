"""Vectors: which direction of a model's residual stream is a behaviour's, and how consistent is it?

Extraction alone: contrastive pairs of the behaviour are read on one model, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest import audit as audits
from palimpsest import behaviour as behaviours
from palimpsest.audit import NotApplicable
from palimpsest.behaviour import Behaviour
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.directions import METHODS, Method
from palimpsest.core.wording import chance, shown
from palimpsest.data.grading import clusters
from palimpsest.data.steered import MADE_FROM, Agreed, Contrast, agreed, alone, spread
from palimpsest.measures import _measure
from palimpsest.measures._measure import Budget
from palimpsest.models import subject
from palimpsest.models.taps import streaming_blocks
from palimpsest.planning import Plan, prepare
from palimpsest.request import Request
from palimpsest.store.vector_file import SteeringVectors

SHUFFLES = 99
_ALL = 10_000
_READ = {
    "answers": "mean residual stream over the first 8 tokens of an answer: the one that shows the behaviour - the others",
    "instruction": "residual stream at the last token of the context: with the instruction as system message - without it",
}
_NAMES = ("pairwise", "in_sample", "left_out", "split_half", "d_prime", "wrong_way")


@dataclass(frozen=True)
class Extracted:
    """Vectors of some blocks, how far pairs agree with them, and the model's type."""

    vectors: SteeringVectors
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    model_type: str
    pairs: int


def extract(
    behaviour: str | Path | Behaviour,
    model: str,
    *,
    method: str = "mean",
    made_from: str = "answers",
    layer: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    progress: Progress | None = None,
    also: Callable[[], list[str]] = list,
) -> Extracted:
    """Return a behaviour's steering vectors on one model.

    Args:
        behaviour: its name, its YAML file, or itself.
        model: a Hugging Face folder, a hub id, or ``pocket``.
        method: ``mean``, ``pca`` or ``logistic``.
        made_from: pairs of ``answers``, or prompts with and without the behaviour's ``instruction``.
        layer: only what leaves this block, counted from 0; by default all blocks.
        device: where it runs.
        dtype: type of the weights in memory.
        seed: draws the pairs and the random signs.
        progress: who is told.
        also: returns further problems, told with the others before work starts.

    Raises:
        UserError: what is wrong, all of it at once.
    """
    loaded = behaviours.load(behaviour)
    progress = progress or Silent()
    request = {
        "kind": "diff", "base": model, "tuned": model, "behaviour": loaded, "audits": ("steering",), "device": device,
        "dtype": dtype, "seed": seed,
    }  # fmt: skip
    plan = prepare(Request.read(request, "the command"))
    problems = Problems("No vector can be extracted:")
    problems.extend(also())
    if method not in METHODS:
        problems.add(f"there is no method '{method}'; there are {', '.join(METHODS)}")
    if made_from not in MADE_FROM:
        problems.add(f"pairs can't be made from '{made_from}', only from {' or '.join(MADE_FROM)}")
    if made_from == "instruction" and not plan.case.instruction:
        problems.add(f"behaviour '{loaded.name}' has no 'instruction' that fits into the context; give it one")
    try:
        audits.load("steering").needs(plan.case)
    except NotApplicable as reason:
        problems.add(str(reason))
    problems.raise_if_any()
    progress.begin("reading contrastive pairs")
    base, dtype = plan.models["base"], plan.request.dtype
    how: Any = {"chat_template": plan.template, "day": plan.day, "separator": plan.renderer.separator}
    with subject.load(base, plan.device, dtype, **how) as one:
        return _extracted(plan, one, method, made_from, layer, progress)  # type: ignore[arg-type]


def _extracted(plan: Plan, one: Any, method: Method, made_from: str, layer: int | None, progress: Progress) -> Extracted:
    items = plan.case.items["pairs"]
    try:
        count = len(streaming_blocks(one.model))
    except LookupError as error:
        raise UserError(f"{one.info.name}: {error}") from error
    if layer is not None and not 0 <= layer < count:
        raise UserError(f"--layer must be 0 to {count - 1}, the blocks of {one.info.name}; found {layer}")
    how = {"instruction": plan.case.instruction} if made_from == "instruction" else {}
    measure = _measure.load("contrasts", {"trial": False, "depths": _ALL, **how})
    found = measure.take(one, items, Budget.on(plan.device, plan.context), None, progress.at)
    if "why" in found.texts:
        raise UserError(f"{one.info.name}: {found.texts['why'][0]}")
    contrast = Contrast(found.arrays["residual"], clusters(items), found.arrays["depth"], 0, np.zeros((1, 1)), np.zeros(1))
    levels = [level for level, depth in enumerate(contrast.depth.tolist()) if layer is None or depth - 1 == layer]
    rng = numpy_stream(plan.request.seed, "steer", "signs")
    by_level = {level: agreed(contrast.pairs(level), contrast.cluster, rng, SHUFFLES) for level in levels}
    vectors = {int(contrast.depth[level]) - 1: contrast.vector(level, method) for level in levels}
    facts = {
        "method": method,
        "model": one.info.name,
        "digest": one.digest,
        "behaviour": plan.request.behaviour.name if plan.request.behaviour else "",
        "layer_convention": "layer.N is added to what leaves block N, counted from 0",
        "made_from": made_from,
        "read": _READ[made_from],
        "scale": "as long as the mean difference of the pairs",
        "pairs": len(items.items),
        "templates": len(set(contrast.cluster.tolist())),
        "seed": plan.request.seed,
        "norm": {str(block): float(np.linalg.norm(vector)) for block, vector in vectors.items()},
        "consistency": {
            str(int(contrast.depth[level]) - 1): _plain(by_level[level], contrast, level, method) for level in levels
        },
    }
    return Extracted(
        SteeringVectors({block: vector.astype(np.float32) for block, vector in vectors.items()}, facts),
        ("after block", "length", "between pairs", "in sample", "random signs", "left out", "random signs", "p", "wrong way"),
        tuple(
            (str(int(contrast.depth[level]) - 1), f"{facts['norm'][str(int(contrast.depth[level]) - 1)]:.3g}", *_row(one_level))
            for level, one_level in by_level.items()
        ),
        str(one.model.config.get_text_config().model_type),
        len(items.items),
    )


def _row(one: Agreed) -> tuple[str, ...]:
    def said(name: str) -> str:
        return shown(one.found[name], decimals=0 if name == "wrong_way" else 2, change=False).sentence.replace(" cosine", "")

    return (
        said("pairwise"),
        said("in_sample"),
        spread(one.shuffled["in_sample"]),
        said("left_out"),
        spread(one.shuffled["left_out"]),
        chance(one.p_value("left_out")),
        said("wrong_way"),
    )


def _plain(one: Agreed, contrast: Contrast, level: int, method: Method) -> dict[str, Any]:
    """Return a level's consistency as plain data: of the mean difference, and of the method itself where it is another."""
    told: dict[str, Any] = {
        name: {
            "value": one.found[name].value,
            "interval": one.found[name].interval,
            "random_signs": [float(end) for end in np.quantile(one.shuffled[name], (0.025, 0.5, 0.975))],
        }
        for name in _NAMES
    }
    if method != "mean":
        own = alone(contrast.pairs(level), contrast.cluster, method)
        told[method] = {name: {"value": each.value, "interval": each.interval} for name, each in own.items()}
    return told
