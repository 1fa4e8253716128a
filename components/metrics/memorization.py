"""Whether samples lie nearer to training images than other real images do.

The test of Meehan et al. 2020 (arXiv:2004.05675) as a share: of all pairs of a sample and a held-out image,
in how many is the sample the one nearer to a training image. Half of them, if samples are as new as held-out
images are; more, if training images are copied, or if samples are smoother than real ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from components.metrics.intervals import Interval, of_estimate

# What samples have that are as new as held-out images.
NULL = 0.5


class Memorization(NamedTuple):
    """The share of pairs in [0, 1], and its 95 % interval."""

    share: float
    interval: Interval


def memorization(samples: NDArray[np.floating], held_out: NDArray[np.floating]) -> Memorization:
    """Compare distances to the nearest training image, of samples [N] and of held-out images [M].

    Pairs at equal distances count half. The interval is over other samples and other held-out images (DeLong
    et al. 1988); it is the share itself where the sets do not overlap.

    Returns:
      NaN where a set has fewer than two images or a distance is not finite.
    """
    n, m = len(samples), len(held_out)
    if min(n, m) < 2 or not (np.isfinite(samples).all() and np.isfinite(held_out).all()):
        return Memorization(math.nan, (math.nan, math.nan))
    ranks = rankdata(np.concatenate([samples, held_out]))
    # Of each sample the share of held-out images that are farther, and of those the share of nearer samples.
    farther = 1.0 - (ranks[:n] - rankdata(samples)) / m
    nearer = (ranks[n:] - rankdata(held_out)) / n
    share = float(farther.mean())
    error = math.sqrt(farther.var(ddof=1) / n + nearer.var(ddof=1) / m)
    low, high = of_estimate(share, error)
    return Memorization(share, (max(0.0, low), min(1.0, high)))
