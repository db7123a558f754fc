"""Known answers and laws of the statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact

LABELS = np.repeat(np.arange(12), 4)


def drawn(seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=48), rng.normal(0.2, 1, size=48)


def coins(seed: int = 0, *rates: float):
    rng = np.random.default_rng(seed)
    return [(rng.random(48) < rate).astype(float) for rate in rates]


def symmetric(count: int) -> np.ndarray:
    """Values without skewness, of mean 0.2."""
    half = np.abs(np.random.default_rng(5).normal(size=count // 2))
    return 0.2 + np.concatenate([half, -half])


def test_a_mean_over_even_clusters_without_skewness_is_the_t_interval_of_the_cluster_means():
    means = symmetric(12)
    found = stats.mean(np.repeat(means, 4) + np.tile([0.1, -0.1, 0.3, -0.3], 12), LABELS, unit="nats")
    expected = reference.ttest_1samp(means, 0)
    assert found.value == pytest.approx(means.mean())
    assert found.interval == pytest.approx(expected.confidence_interval(0.95))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.n == 12


def test_a_paired_difference_is_the_paired_t_test_where_each_item_is_its_own_cluster():
    before, moved = drawn()[0], symmetric(48)
    found = stats.mean_difference(before, before + moved, np.arange(48), unit="nats")
    expected = reference.ttest_rel(before + moved, before)
    assert found.interval == pytest.approx(expected.confidence_interval(0.95))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_a_skewed_mean_reaches_as_far_as_t_on_the_one_side_and_as_halls_transformation_on_the_other():
    values = np.exp(np.random.default_rng(3).normal(size=24))
    found = stats.mean(values - 1.0, np.arange(24), unit="nats")
    plain = reference.ttest_1samp(values - 1.0, 0)
    low, high = plain.confidence_interval(0.95)
    assert found.interval is not None and found.interval[0] == pytest.approx(low)
    size = values.std(ddof=1) / 24**0.5
    skew = 1.25 * reference.skew(values, bias=False) / 24**0.5 * ((24 - 1) / 24) ** 1.5 * (24 / 23) ** 1.5
    transform = 3 / skew * (np.cbrt(1 + skew * (-reference.t.ppf(0.975, 23) - skew / 6)) - 1)
    assert found.interval[1] == pytest.approx(values.mean() - 1.0 - size * transform) and found.interval[1] > high + 0.1


def test_the_p_value_is_the_interval_turned_round():
    values = np.exp(np.random.default_rng(3).normal(size=24))
    low, high = stats.mean(values, np.arange(24), unit="nats").interval or (0.0, 0.0)
    for end in (low, high):
        assert stats.mean(values - end, np.arange(24), unit="nats").p_value == pytest.approx(0.05)


@pytest.mark.parametrize(("clusters", "expected"), [(80, 14.4), (24, 8.1), (8, 4.0)])
def test_degrees_of_freedom_of_zipf_clusters_are_bell_and_mccaffreys(clusters, expected):
    from palimpsest.core.stats.spread import degrees_of

    sizes = np.maximum(1, np.round(1 / np.arange(1, clusters + 1) * 1e6)).astype(int)
    assert degrees_of(sizes) == pytest.approx(expected, abs=0.1)
    assert degrees_of(np.full(clusters, 7)) == pytest.approx(clusters - 1)
    share = sizes / sizes.sum()  # the definition: eigenvalues of (I - H)'s blocks under independent items
    rows = (np.diag(share) - np.outer(share, share)) / np.sqrt(np.outer(1 - share, 1 - share))
    assert degrees_of(sizes) == pytest.approx(np.trace(rows) ** 2 / np.square(rows).sum())


@pytest.mark.parametrize(("margin", "unit", "needed"), [(0.05, "points", 59), (0.117, "points", 25), (0.3, "nats/token", 59)])
def test_unchanged_takes_clusters_enough_to_have_seen_one_that_lost_everything(margin, unit, needed):
    assert stats.needed_to_exclude(margin, unit) == needed
    rng = np.random.default_rng(0)
    for count in (needed - 1, needed):
        values = rng.normal(size=count)
        found = stats.mean_difference(
            values, values + 1e-3 * rng.normal(size=count), np.arange(count), unit=unit, margin=margin
        )
        assert found.equivalent is (count == needed)
    assert pytest.approx(0.117, abs=5e-4) == 1 - 0.05 ** (1 / 24)


def test_what_a_handful_of_clusters_carry_is_not_said():
    values = np.zeros(48)
    values[[3, 30]] = 1.5
    found = stats.mean_difference(np.zeros(48), values, LABELS, unit="words")
    assert (
        found.interval is None and found.method == "could not say: 2 of 12 clusters differ from the rest, about 18 are needed"
    )
    nothing = stats.mean_difference(np.zeros(48), np.zeros(48), LABELS, unit="words", margin=1.0)
    assert nothing.value == 0.0 and nothing.interval is None and "59 are needed" in nothing.method
    assert nothing.equivalent is None


def test_the_minimum_detectable_effect_is_that_of_t_quantiles():
    expected = 0.1 * (reference.t.ppf(0.975, 11) + reference.t.ppf(0.8, 11))
    assert stats.minimum_detectable(0.1, 11) == pytest.approx(expected)


def test_a_few_large_clusters_cost_degrees_of_freedom():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(200, int), np.repeat(np.arange(1, 12), 4)])
    found = stats.mean(rng.normal(size=labels.size), labels, unit="nats")
    assert found.interval is not None and found.minimum_detectable is not None
    assert found.interval[1] - found.interval[0] > 0.9


@pytest.mark.parametrize("count", [1, 7])
def test_too_few_clusters_give_a_value_without_an_interval(count):
    labels = np.arange(48) % count
    before, after = drawn()
    zero, one = coins(1, 0.3, 0.6)
    for found in (
        stats.mean(before, labels, unit="nats"),
        stats.mean_difference(before, after, labels, unit="nats", margin=1.0),
        stats.positive_mean(abs(before), labels, unit="nats"),
        stats.rate(zero, labels),
        stats.rate_difference(zero, one, labels),
        *stats.d_prime(zero, one, labels, labels),
        stats.d_prime_change(zero, one, zero, one, labels, labels),
    ):
        assert found.value is not None and found.interval is None and found.equivalent is None
        assert found.method.startswith("could not say") and f"{count} cluster" in found.method
    assert stats.ratio(before, after, labels, labels).value is None


def test_bit_identical_items_are_unchanged_with_no_width():
    values, _ = drawn()
    assert stats.mean_difference(values, values, LABELS, unit="nats").interval is None  # of 12 clusters, by chance
    found = stats.mean_difference(values, values, LABELS, unit="nats", margin=0.01, same=True)
    assert (found.value, found.interval, found.p_value, found.equivalent) == (0.0, (0.0, 0.0), 1.0, True)
    assert found.method == "identical on every item"


def test_a_constant_shift_has_no_known_spread():
    values = np.arange(48.0)
    found = stats.mean_difference(values, values + 1.0, LABELS, unit="nats")
    assert found.value == 1.0 and found.interval is None and not found.known


def test_equivalence_needs_the_93_percent_interval_inside_the_margin():
    values = symmetric(60)
    reach = reference.ttest_1samp(values, 0).confidence_interval(0.93).high

    def unchanged(margin: float) -> bool | None:
        return stats.mean(values, np.arange(60), unit="nats", margin=margin).equivalent

    assert unchanged(reach + 1e-6) is True and unchanged(reach - 1e-6) is False
    assert stats.mean(values, np.arange(60), unit="nats").equivalent is None
    with pytest.raises(ValueError, match="over 0"):
        unchanged(0.0)


def test_no_flip_does_not_mean_no_uncertainty():
    ones = np.ones(48)
    found = stats.rate_difference(ones, ones, LABELS, margin=0.5)
    assert found.value == 0.0 and found.interval is not None and found.p_value == pytest.approx(1.0)
    unseen = 1 - 0.05 ** (1 / 12)  # the share of templates of which none may have been among twelve
    assert found.interval[0] < -0.9 * unseen and found.interval[1] > 0.9 * unseen
    assert found.equivalent is True
    assert stats.rate_difference(ones, ones, LABELS, margin=0.2).equivalent is False


def test_all_flipped_stays_within_one():
    found = stats.rate_difference(np.zeros(48), np.ones(48), LABELS)
    assert found.value == 1.0 and found.interval is not None
    assert 0.5 < found.interval[0] < 1.0 and found.interval[1] == 1.0
    assert found.p_value is not None and found.p_value < 1e-4


def test_independent_items_give_bonett_and_prices_interval():
    before, after = coins(3, 0.3, 0.6)
    found = stats.rate_difference(before, after, np.arange(48))
    lost, won, n = (before > after).sum(), (after > before).sum(), 48
    low, high = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    reach = reference.t.ppf(0.975, 47) * math.sqrt((low + high - (high - low) ** 2) / (n + 2))
    assert found.interval == pytest.approx((high - low - reach, high - low + reach))


def test_independent_items_give_the_wider_of_wilsons_and_jeffreys_interval():
    (values,) = coins(3, 0.3)
    found = stats.rate(values, np.arange(48))
    t2 = reference.t.ppf(0.975, 47) ** 2
    centre, reach = (values.sum() + t2 / 2) / (48 + t2), math.sqrt(t2) / (48 + t2)
    reach *= math.sqrt(48 * values.mean() * (1 - values.mean()) + t2 / 4)
    items = 48 * (reference.norm.ppf(0.975) / reference.t.ppf(0.975, 47)) ** 2
    few = reference.beta(values.mean() * items + 0.5, (1 - values.mean()) * items + 0.5).ppf([0.025, 0.975])
    assert found.interval == pytest.approx((min(centre - reach, few[0]), max(centre + reach, few[1])), rel=1e-3)


@pytest.mark.parametrize(("value", "side"), [(0.0, 0), (1.0, 1)])
def test_a_rate_at_the_edge_has_a_one_sided_interval(value, side):
    found = stats.rate(np.full(48, value), LABELS)
    assert found.interval is not None and found.interval[side] == value
    assert 0.05 < abs(found.interval[1 - side] - value) < 0.35


def test_clusters_that_move_as_one_widen_the_interval_of_a_rate():
    together = np.repeat([0.0, 1.0] * 6, 4)
    apart = np.tile([0.0, 1.0], 24)
    wide, narrow = (stats.rate(values, LABELS).interval for values in (together, apart))
    assert wide is not None and narrow is not None
    assert wide[1] - wide[0] > 1.3 * (narrow[1] - narrow[0])


def test_flips_and_mcnemar():
    before, after = [1, 1, 1, 1, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1, 0, 1]
    found = stats.flips(before, after)
    assert (found.right_to_wrong, found.wrong_to_right) == (6, 1)
    assert found.p_value == pytest.approx(reference.binomtest(1, 7).pvalue)
    assert stats.flips([1, 0], [1, 0]) == (0, 0, 1.0)


def test_d_prime_and_criterion_of_known_rates():
    express, withhold = np.repeat([1.0, 0.0], [36, 12]), np.repeat([1.0, 0.0], [12, 36])
    d, c = stats.d_prime(express, withhold, np.arange(48), np.arange(48))
    hit, alarm = reference.norm.ppf([36.5 / 49, 12.5 / 49])
    assert d.value == pytest.approx(hit - alarm)
    assert c.value == pytest.approx(-(hit + alarm) / 2)
    assert "log-linear" in d.method


def test_d_prime_at_rates_of_one_and_zero_is_finite_and_uncertain():
    d, _ = stats.d_prime(np.ones(48), np.zeros(48), LABELS, LABELS)
    assert d.interval is not None and d.value == pytest.approx(2 * reference.norm.ppf(48.5 / 49))
    assert d.interval[1] - d.interval[0] > 1.0
    assert "0 or 1" in d.method


def test_d_prime_of_probabilities_is_not_corrected():
    d, _ = stats.d_prime(np.linspace(0.6, 0.8, 48), np.linspace(0.1, 0.3, 48), LABELS, LABELS)
    assert d.value == pytest.approx(reference.norm.ppf(0.7) - reference.norm.ppf(0.2))


def test_d_prime_of_the_same_probabilities_is_unchanged_and_of_the_same_outcomes_not_known_to_be():
    shares = np.linspace(0.1, 0.9, 48)
    found = stats.d_prime_change(shares, shares, shares / 2, shares / 2, LABELS, LABELS)
    assert (found.value, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
    ones, some = coins(0, 0.6, 0.3)
    found = stats.d_prime_change(ones, ones, some, some, LABELS, LABELS)
    assert found.value == 0.0 and found.interval is not None and found.interval[0] < -0.1 < 0.1 < found.interval[1]


def test_a_label_in_both_poles_is_one_cluster():
    rng = np.random.default_rng(0)
    shared = 0.2 * rng.normal(size=12)[LABELS]
    pole = np.clip(0.5 + shared + 0.02 * rng.normal(size=48), 0, 1)
    other = np.clip(0.5 + shared + 0.02 * rng.normal(size=48), 0, 1)
    joint, _ = stats.d_prime(pole, other, LABELS, LABELS)
    apart, _ = stats.d_prime(pole, other, LABELS, LABELS + 100)
    assert joint.interval is not None and apart.interval is not None
    assert (joint.n, apart.n) == (12, 24)
    assert joint.interval[1] - joint.interval[0] < 0.5 * (apart.interval[1] - apart.interval[0])


def test_a_ratio_of_one_pole_to_itself_is_exactly_one():
    values = 1.0 + 0.1 * drawn()[0]
    found = stats.ratio(values, values, LABELS, LABELS)
    assert found.value == pytest.approx(1.0) and found.interval == pytest.approx((1.0, 1.0))


def test_a_ratio_to_nothing_could_not_be_said():
    values, other = drawn()
    found = stats.ratio(values, other - other.mean(), LABELS, LABELS)
    assert found.value is None and "holds 0" in found.method


def test_a_distance_stays_above_zero_and_no_distance_is_zero():
    values = np.abs(drawn()[0]) ** 3
    found = stats.positive_mean(values, LABELS, unit="nats")
    assert found.interval is not None and found.value is not None and 0 <= found.interval[0] < found.value < found.interval[1]
    assert stats.positive_mean(np.zeros(60), np.arange(60), unit="nats").interval == (0.0, 0.0)
    assert stats.positive_mean(np.zeros(48), LABELS, unit="nats").interval is None
    with pytest.raises(ValueError, match="below 0"):
        stats.positive_mean(-values, LABELS, unit="nats")
    with pytest.raises(ValueError, match="below 0"):
        stats.against_noise_floor(values, -values, LABELS, unit="nats")


def test_against_the_noise_floor_is_the_paired_difference():
    values, floor = (np.abs(part) for part in drawn())
    found = stats.against_noise_floor(values, floor, LABELS, unit="nats")
    plain = stats.mean_difference(floor, values, LABELS, unit="nats")
    assert (found.value, found.interval, found.p_value) == (plain.value, plain.interval, None)


def test_holm_on_the_textbook_example():
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None}
    assert stats.adjusted(p_values) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "e": None})
    assert stats.holm(p_values, 0.05) == {"a": True, "b": False, "c": False, "d": True, "e": False}


def seed(value: float | None, unit: str = "points") -> Estimate:
    return Estimate(value=value, unit=unit, n=24, interval=None, method="made up")


def test_across_seeds_exact_numbers_have_the_t_interval_over_seeds():
    found = stats.across_seeds([exact(value, "points") for value in (0.1, 0.3, 0.5)])
    expected = reference.ttest_1samp([0.1, 0.3, 0.5], 0)
    assert found.value == pytest.approx(0.3) and found.n == 3
    assert found.interval == pytest.approx(expected.confidence_interval(0.95))
    assert found.p_value == pytest.approx(expected.pvalue)


def measured(value: float, reach: float = 0.1, margin: float | None = None) -> Estimate:
    return seed(value).model_copy(update={"interval": (value - reach, value + reach), "margin": margin})


def test_across_seeds_the_items_that_all_share_count_too():
    """Three seeds that agree closely on the same items know the items no better than one of them."""
    values = (0.29, 0.30, 0.31)
    found = stats.across_seeds([measured(value) for value in values])
    alone = reference.ttest_1samp(values, 0).confidence_interval(0.95).high - 0.3
    assert found.interval == pytest.approx((0.3 - math.hypot(alone, 0.1), 0.3 + math.hypot(alone, 0.1)))


def test_across_seeds_unchanged_takes_clusters_enough():
    assert stats.across_seeds([measured(0.0, 0.01, 0.05), measured(0.001, 0.01, 0.05)]).equivalent is False  # 24 clusters
    many = [measured(value, 0.01, 0.05).model_copy(update={"n": 60}) for value in (0.0, 0.001)]
    assert stats.across_seeds(many).equivalent is True


def test_one_seed_says_nothing_on_a_method():
    assert stats.across_seeds([seed(0.1)]).interval is None
    partly = stats.across_seeds([measured(0.1), seed(None)])
    assert partly.interval is None and "1 more without a value" in partly.method
    assert stats.across_seeds([seed(None)]).value is None
    assert stats.across_seeds([seed(0.1), seed(0.2)]).interval is None  # their items' error is not known
    with pytest.raises(ValueError, match="one unit"):
        stats.across_seeds([seed(0.1), seed(0.1, "nats")])


def test_seeds_that_agree_to_the_last_digit_are_known_no_better_than_each_of_them():
    found = stats.across_seeds([measured(0.25), measured(0.25)])
    assert found.interval == pytest.approx((0.15, 0.35))
    assert stats.across_seeds([exact(0.25, "points")] * 2).interval is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    values = np.arange(48.0)
    values[3] = bad
    with pytest.raises(ValueError, match="finite"):
        stats.mean(values, LABELS, unit="nats")
    with pytest.raises(ValueError, match="0 or 1"):
        stats.rate(values, LABELS)
    with pytest.raises(ValueError, match="same items"):
        stats.mean_difference(values, values[:-1], LABELS, unit="nats")


def everything(before, after, zero, one, labels, flip=False):
    """All paired functions on the same items; ``flip`` swaps before and after."""
    if flip:
        before, after, zero, one = after, before, one, zero
    return {
        "mean": stats.mean_difference(before, after, labels, unit="x", margin=0.5),
        "rate": stats.rate_difference(zero, one, labels, margin=0.2),
        "d'": stats.d_prime_change(zero, one, one[::-1], zero[::-1], labels, labels[::-1]),
    }


def close(one: Estimate, two: Estimate, sign: float = 1.0):
    assert two.value == pytest.approx(sign * one.value, abs=1e-9)
    assert (one.interval is None) == (two.interval is None)
    if one.interval is not None and two.interval is not None:
        expected = one.interval if sign > 0 else (-one.interval[1], -one.interval[0])
        assert two.interval == pytest.approx(expected, abs=1e-7)
        assert two.p_value == pytest.approx(one.p_value, abs=1e-7)
        assert two.equivalent == one.equivalent


@settings(max_examples=50, deadline=None)
@given(number=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
def test_laws(number, share):
    before, after = drawn(number)
    zero, one = coins(number, share, 0.5)
    found = everything(before, after, zero, one, LABELS)
    order = np.random.default_rng(number).permutation(48)
    names = np.array([f"template {40 - label}" for label in LABELS])
    for name, estimate in everything(before, after, zero, one, LABELS, flip=True).items():
        close(found[name], estimate, sign=-1.0)
    for name, estimate in everything(before, after, zero, one, names).items():
        close(found[name], estimate)
    for make in (stats.mean_difference, lambda *a, unit: stats.rate_difference(*a, unit=unit)):
        pair = (before, after) if make is stats.mean_difference else (zero, one)
        close(make(*pair, LABELS, unit="x"), make(pair[0][order], pair[1][order], LABELS[order], unit="x"))
    close(found["mean"], stats.mean_difference(before + 5, after + 5, LABELS, unit="x", margin=0.5))
    for estimate in found.values():
        assert estimate.interval is None or estimate.interval[0] <= estimate.value <= estimate.interval[1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_refuses_less_than_bonferroni_nor_more_than_no_correction(p_values):
    named = {str(index): p for index, p in enumerate(p_values)}
    told = stats.holm(named)
    assert all(told[name] for name, p in named.items() if p <= 0.05 / len(named))
    assert all(named[name] <= 0.05 for name, fell in told.items() if fell)
