"""What the number of samples does to the Frechet distance: its bias, and how far others would move it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress

from components.metrics.frechet import frechet_distances
from components.metrics.intervals import Interval, of_estimate
from components.metrics.moments import Moments, merge, moments

# Points of the line, and the smallest set on it as a multiple of the dimensions: with fewer images than
# dimensions the bias is no line.
POINTS, FEWEST = 15, 2
# Of the jackknife.
GROUPS = 10


class Extrapolation(NamedTuple):
    """A line through the distances of sets of N samples, over 1 / N.

    Attributes:
      counts: N of each point.
      distances: of each point.
      limit: where the line is at 1 / N = 0.
    """

    counts: tuple[int, ...]
    distances: tuple[float, ...]
    limit: float


def extrapolate(
    features: NDArray[np.floating], reference: Moments, *, seed: int, points: int = POINTS
) -> Extrapolation | None:
    """FID-infinity (Chong and Forsyth 2020): the distance that infinitely many samples would have.

    The bias of the distance falls with 1 / N. The reference keeps its own: it should be a whole data set.

    Args:
      features: of the samples [N, D].
      reference: what they are compared with.
      seed: of the random subsets.
      points: how many, from N / 10 or 2 D, whichever is more, to N.

    Returns:
      None with fewer than 4 D samples, or where a feature is not finite.
    """
    count, dimensions = features.shape
    smallest = max(count // 10, FEWEST * dimensions)
    if 2 * smallest > count:
        return None
    generator = np.random.default_rng(seed)
    counts = np.linspace(smallest, count, points).astype(int)
    sets = [moments(features[generator.choice(count, size, replace=False)]) for size in counts]
    distances = frechet_distances(sets, reference)
    if not np.isfinite(distances).all():
        return None
    line = linregress(1.0 / counts, distances)
    return Extrapolation(tuple(counts.tolist()), tuple(distances), float(line.intercept))


def split(features: NDArray[np.floating], *, seed: int) -> list[Moments]:
    """The moments of `GROUPS` random groups of features [N, D]."""
    order = np.random.default_rng(seed).permutation(len(features))
    return [moments(features[rows]) for rows in np.array_split(order, GROUPS)]


def interval(groups: Sequence[Moments], reference: Moments, distance: float) -> Interval:
    """The 95 % interval of a distance over other samples of the same model, by the grouped jackknife.

    Each group is left out once. A bootstrap would add a bias of its own: samples that are drawn twice make a
    covariance smaller. The reference is taken as it is.

    Args:
      groups: of the samples: random ones of nearly the same size.
      reference: what they are compared with.
      distance: of all samples.

    Returns:
      NaN where a distance is, or with too few samples for the groups.
    """
    if min(group.count for group in groups) < 2:
        return math.nan, math.nan
    without = [merge([*groups[:left], *groups[left + 1 :]]) for left in range(len(groups))]
    distances = np.array(frechet_distances(without, reference))
    variance = (len(groups) - 1) / len(groups) * float(np.square(distances - distances.mean()).sum())
    return of_estimate(distance, math.sqrt(variance))
