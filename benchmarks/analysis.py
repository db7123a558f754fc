"""Analysis: how much more does an audit cost than as many bare t intervals?

    python benchmarks/analysis.py [--repeats 3]

An audit's ``analyse`` on the world of its own ``simulate``, beside ``scipy.stats.t.interval`` over the cluster means of 24 x 16
items, once for each number with an interval that the audit gives (estimates and cells of its tables). Neither touches a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import side_by_side
from side_by_side import Bench, Numbers

from palimpsest import audit as audits
from palimpsest.audit import Result
from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream

_TIMES = 20
_CLUSTERS, _SIZE = 24, 16


def measure(name: str, side: str) -> Numbers:
    """Analyse one world several times, or give as many bare intervals; return milliseconds of one analysis."""
    one, rng = audits.load(name), numpy_stream(5, "analysis", name)
    data = one.simulate(one.planted, rng)
    numbers = sum(1 for _ in _intervals(one.analyse(data, rng)))
    work: Callable[[], object] = (lambda: one.analyse(data, rng)) if side == "ours" else (lambda: _bare(numbers, values))
    values = rng.normal(size=_CLUSTERS * _SIZE)
    work()
    with side_by_side.Meter() as meter:
        for _ in range(_TIMES):
            work()
    return {"milliseconds": 1e3 * meter.seconds / _TIMES, "numbers": float(numbers)}


def _intervals(result: Result) -> Iterator[Estimate]:
    cells = [cell for table in result.tables for row in table.rows for cell in row if isinstance(cell, Estimate)]
    yield from (one for one in [*result.estimates.values(), *cells] if one.interval is not None)


def _bare(numbers: int, values: np.ndarray) -> None:
    from scipy import stats

    labels = np.repeat(np.arange(_CLUSTERS), _SIZE)
    for _ in range(numbers):
        means = np.bincount(labels, values) / _SIZE
        stats.t.interval(0.95, _CLUSTERS - 1, means.mean(), means.std(ddof=1) / np.sqrt(_CLUSTERS))


def plan(bench: Bench) -> None:
    for name in audits.names():
        sides = {side: {"name": name, "side": side} for side in ("ours", "bare t")}
        turns = bench.race("One analysis", name, sides, numbers={"milliseconds": "ms"})
        bench.remark(f"{name}: {turns['ours'][0]['numbers']:.0f} numbers with an interval.")


if __name__ == "__main__":
    side_by_side.main(__doc__, measure, plan)
