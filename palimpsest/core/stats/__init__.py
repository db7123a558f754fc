"""Stats: which number, which interval, and is the change more than chance?

Items come in clusters (the template or the document they were made from), and items of one cluster are not independent: the
unit of every interval is the cluster. All functions are pure, deterministic and know of no model.
"""

from palimpsest.core.stats.apart import Apart, auroc_difference, clearest, told_apart
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS
from palimpsest.core.stats.controlled import (
    against_noise_floor,
    beyond,
    distances,
    floor,
    halves,
    of_controls,
    over_controls,
    over_seeds,
    shifts,
)
from palimpsest.core.stats.dose import crossing_dose, half_dose, later, logistic, threshold
from palimpsest.core.stats.many import FAMILY_ERROR, across_seeds, adjusted, fallen, holm, unseen_only
from palimpsest.core.stats.margins import beyond_margin, is_outcome
from palimpsest.core.stats.means import level, mean, mean_difference, positive_mean
from palimpsest.core.stats.power import smallest_mean_change, smallest_rate_change, spill_power, unseen_spill
from palimpsest.core.stats.rates import Flips, flips, rate, rate_difference
from palimpsest.core.stats.ratios import ratio
from palimpsest.core.stats.seeds import joined, paired, two_level
from palimpsest.core.stats.signal import d_prime, d_prime_change
from palimpsest.core.stats.spread import ONE_IN, minimum_detectable, needed_to_exclude, unseen_share
from palimpsest.core.stats.traits import spread, trait_change, trait_level

__all__ = [
    "FAMILY_ERROR",
    "FEWEST_CLUSTERS",
    "ONE_IN",
    "Apart",
    "Flips",
    "across_seeds",
    "adjusted",
    "against_noise_floor",
    "auroc_difference",
    "beyond",
    "beyond_margin",
    "clearest",
    "crossing_dose",
    "d_prime",
    "d_prime_change",
    "distances",
    "fallen",
    "flips",
    "floor",
    "half_dose",
    "halves",
    "holm",
    "is_outcome",
    "joined",
    "later",
    "level",
    "logistic",
    "mean",
    "mean_difference",
    "minimum_detectable",
    "needed_to_exclude",
    "of_controls",
    "over_controls",
    "over_seeds",
    "paired",
    "positive_mean",
    "rate",
    "rate_difference",
    "ratio",
    "shifts",
    "smallest_mean_change",
    "smallest_rate_change",
    "spill_power",
    "spread",
    "threshold",
    "told_apart",
    "trait_change",
    "trait_level",
    "two_level",
    "unseen_only",
    "unseen_share",
    "unseen_spill",
]
