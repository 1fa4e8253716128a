"""Intervals of scores, over the images that they might have been measured on, at 95 %.

They say nothing of other seeds of a training, which move scores too.
"""

from __future__ import annotations

import math

from scipy.stats import binomtest, norm

CONFIDENCE = 0.95

Interval = tuple[float, float]


def of_mean(mean: float, variance: float, count: int) -> Interval:
    """The interval of a mean over `count` images whose values have this (unbiased) variance."""
    return of_estimate(mean, math.sqrt(variance / count))


def of_estimate(value: float, error: float) -> Interval:
    """The interval of a value with this standard error."""
    half = float(norm.ppf((1.0 + CONFIDENCE) / 2.0)) * error
    return value - half, value + half


def of_share(share: float, count: int) -> Interval:
    """The interval of a share of `count` images (Wilson 1927); NaN for a share that is not finite."""
    if not math.isfinite(share):
        return math.nan, math.nan
    found = binomtest(round(share * count), count).proportion_ci(CONFIDENCE, "wilson")
    return float(found.low), float(found.high)
