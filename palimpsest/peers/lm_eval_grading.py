"""Grading: what does lm-eval's own scoring make of one model's answers?"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest.core.errors import UserError, first_line
from palimpsest.core.spec import digest
from palimpsest.data.tasks import Document, Metric, Responses, Scores
from palimpsest.peers.lm_eval_world import theirs
from palimpsest.store.source import source_digest

_UNSHOWN = "bypass"


class Grader:
    """The scoring of one task whose requests are built: its filters, then its metrics, document by document.

    Args:
        task: lm-eval's task.
        documents: how its documents are told to a user, in the order of its requests.
        groups: its requests, document by document.
    """

    def __init__(self, task: Any, documents: Sequence[Document], groups: Sequence[Sequence[Any]]) -> None:
        self.task, self.documents, self.groups = task, documents, groups

    def __call__(self, responses: Sequence[Responses]) -> Scores:
        """Return every metric of all documents.

        Raises:
            UserError: the task's own scoring fails.
        """
        raw = self.raw(responses)
        kinds = {name: _kind(values) for name, values in raw.items()}
        pairs = {name: np.array(values, dtype=np.float64) for name, values in raw.items() if kinds[name] == "weighted"}
        scores = {name: np.array(values, dtype=np.float64) for name, values in raw.items() if kinds[name] == "score"}
        whole = {name: number for name, values in raw.items() if (number := self._whole(name, values)) is not None}
        briers = {name: _briers(values) for name, values in raw.items() if name.split(",")[0] == "brier_score"}
        scores |= {name: values for name, values in briers.items() if values is not None}
        values = scores | {name: pair[:, 0] for name, pair in pairs.items()}
        return Scores(values, {name: pair[:, 1] for name, pair in pairs.items()}, whole)

    def metrics(self, trial: Sequence[Responses]) -> tuple[Metric, ...]:
        """Return the task's metrics, from answers that serve to see what it makes of them."""
        better = self.task.higher_is_better()
        return tuple(
            Metric(
                name=name,
                higher_is_better=bool(better.get(name.split(",")[0], True)),
                kind="whole" if _kind(values) == "score" and not self._averages(name) else _kind(values),
                averaged=self._averages(name),
            )
            for name, values in self.raw(trial).items()
        )

    def raw(self, responses: Sequence[Responses]) -> dict[str, list[Any]]:
        """Return what the task's scoring gives for each document, by metric."""
        found: dict[str, list[Any]] = defaultdict(list)
        place = "its filters"
        try:
            with theirs():
                self._answer(responses)
                for way in self.groups[0][0].filtered_resps:
                    for document, group in zip(self.documents, self.groups, strict=True):
                        place = document.source
                        given = self.task.process_results(group[0].doc, [one.filtered_resps[way] for one in group])
                        for name, value in given.items():
                            found[name if way == "none" else f"{name},{way}"].append(value)
        except Exception as error:
            raise UserError(f"lm-eval's own scoring fails at {place}: {type(error).__name__}: {first_line(error)}") from error
        whole = len(self.documents)
        return {name: values for name, values in found.items() if len(values) == whole and name.split(",")[0] != _UNSHOWN}

    def _answer(self, responses: Sequence[Responses]) -> None:
        for group, one in zip(self.groups, responses, strict=True):
            for request, answer in zip(group, one.given, strict=True):
                request.resps, request.filtered_resps = [answer] * (request.repeats or 1), {}
        self.task.apply_filters()

    def _whole(self, name: str, values: list[Any]) -> float | None:
        """Return lm-eval's own number over all documents, or ``None`` where there is none."""
        try:
            with theirs():
                number = float(self._aggregation(name)(values))
        except Exception:  # such as a metric that this many documents don't have
            return None
        return number if np.isfinite(number) else None

    def _averages(self, name: str) -> bool:
        """Whether lm-eval's own number is the mean over documents; it is asked what it makes of two numbers out of three."""
        try:
            return abs(float(self._aggregation(name)([0.0, 1.0, 1.0])) - 2 / 3) < 1e-9
        except Exception:
            return False

    def _aggregation(self, name: str) -> Any:
        from lm_eval.api.metrics import mean

        return self.task.aggregation().get(name.split(",")[0], mean)


def _briers(values: Sequence[Any]) -> np.ndarray | None:
    """Return the squared error of each document, summed over the options, or ``None`` where it is told in another way."""
    try:
        return np.array([((np.asarray(shares) - np.eye(len(shares))[int(right)]) ** 2).sum() for right, shares in values])
    except (TypeError, ValueError, IndexError):
        return None


def _kind(values: Sequence[Any]) -> Any:
    """Return whether a metric has one number a document, a sum over a number of parts, or something else."""
    if all(isinstance(value, bool | int | float | np.number | np.bool_) for value in values):
        return "score"
    if all(
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(part, int | float) for part in value)
        and isinstance(value[0], float)
        and value[1] > 0
        for value in values
    ):
        return "weighted"
    return "whole"


def scoring_digest(task: Any) -> str:
    """Return a digest of all that decides a task's scores besides its documents: settings, code, and lm-eval's version."""
    settings = {key: value for key, value in vars(task.config).items() if key != "metadata"}
    return digest(
        [
            importlib.metadata.version("lm_eval"),
            source_digest(__name__, "palimpsest.data.tasks"),
            _code(type(task)),
            _plain(settings),
        ]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return _code(value) if callable(value) else _plain(vars(value)) if hasattr(value, "__dict__") else str(type(value))


def _code(value: Any) -> str:
    """Return the name of a function or class with a digest of the file that it stands in."""
    inner = getattr(value, "func", value)
    try:
        file = inspect.getsourcefile(inner)
        content = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except (TypeError, OSError):
        content = ""
    return f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__name__)} {content}"
