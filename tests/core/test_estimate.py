"""What may an estimate say?"""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from palimpsest.core.estimate import Estimate, exact, unknown


def around(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, unit="points", n=24, interval=(low, high), method="t")


@pytest.mark.parametrize("interval", [(0.2, 0.1), (0.0, math.inf), (math.nan, 1.0)])
def test_an_interval_is_finite_and_ordered(interval):
    with pytest.raises(ValidationError):
        Estimate(value=0.1, unit="points", n=24, interval=interval, method="t")


def test_nan_is_refused_where_none_is_meant():
    with pytest.raises(ValidationError):
        Estimate(value=math.nan, unit="points", n=24, interval=None, method="t")


def test_an_interval_is_above_below_or_across_a_threshold():
    assert around(0.1, 0.3).above(0.05) is True
    assert around(0.1, 0.3).above(0.5) is False
    assert around(0.1, 0.3).above(0.2) is None


def test_an_exact_number_is_known_without_an_interval():
    assert exact(0.3, "norm").known
    assert exact(0.3, "norm").above(0.2) is True
    assert exact(0.3, "norm").above(0.4) is False


def test_what_could_not_be_had_is_none_and_says_why():
    found = unknown("points", 3, "3 clusters, 8 are needed")
    assert found.value is None and not found.known and found.above(0.0) is None
    assert found.method == "could not say: 3 clusters, 8 are needed"


def test_a_value_without_its_interval_is_not_known():
    assert not Estimate(value=0.1, unit="points", n=3, interval=None, method="could not say: 3 clusters").known


def test_an_estimate_survives_json():
    assert Estimate.model_validate_json(around(0.1, 0.3).model_dump_json()) == around(0.1, 0.3)
