"""Fidelity and coverage apart, by neighbourhoods in the space of features.

Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al.
2020, arXiv:2002.09797). A vector's neighbourhood is the ball that reaches its k-th nearest neighbour in its
own set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.metrics.distances import Vectors, blocks

# The published values of k.
PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5


class Manifold(NamedTuple):
    """Shares in [0, 1]; density may be more.

    Attributes:
      precision: of the samples in the neighbourhood of a real image.
      recall: of the real images in the neighbourhood of a sample.
      density: neighbourhoods of real images that a sample is in, as a multiple of k.
      coverage: of the real images whose neighbourhood holds a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(samples: Vectors, real: Vectors) -> Manifold:
    """Compare samples [N, D] with real images [M, D].

    Returns:
      NaN where a set has no more vectors than a neighbourhood, or a feature is not finite.
    """
    enough = min(len(samples), len(real)) > DENSITY_NEIGHBOURS
    if not enough or not (np.isfinite(samples).all() and np.isfinite(real).all()):
        return Manifold(*[float("nan")] * 4)
    neighbours = (PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS)
    of_real, of_real_wide = _radii(real, neighbours)
    of_samples, _ = _radii(samples, neighbours)
    precise = recalled = inside = 0
    nearest = np.full(len(real), np.inf)
    held = np.zeros(len(real), bool)
    for start, distances in blocks(samples, real):
        precise += int((distances <= of_real).any(axis=1).sum())
        inside += int((distances <= of_real_wide).sum())
        held |= (distances <= of_samples[start : start + len(distances), np.newaxis]).any(axis=0)
        np.minimum(nearest, distances.min(axis=0), out=nearest)
    recalled = int(held.sum())
    return Manifold(
        precise / len(samples),
        recalled / len(real),
        inside / (DENSITY_NEIGHBOURS * len(samples)),
        float((nearest <= of_real_wide).mean()),
    )


def _radii(vectors: Vectors, neighbours: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """For each k the distance [N] to the k-th neighbour in the same set."""
    found = [np.empty(len(vectors)) for _ in neighbours]
    for start, distances in blocks(vectors, vectors):
        # Itself is the nearest, at index 0.
        ordered = np.partition(distances, neighbours, axis=1)
        for radii, k in zip(found, neighbours, strict=True):
            radii[start : start + len(distances)] = ordered[:, k]
    return found
