"""The Fréchet distance between two sets of features (Heusel et al. 2017): FID on any feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # which imports Beam
    from components.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), at least 0, in units of squared features.

    The product C_a C_b is not symmetric, and its general matrix square root becomes complex or diverges if
    there are fewer images than dimensions. Its eigenvalues are those of C_a^(1/2) C_b C_a^(1/2); the square
    roots of these are the singular values of C_a^(1/2) C_b^(1/2), where no root is taken of rounding near 0.

    NaN if a set has fewer than two vectors, and so no covariance, or if a feature is not finite.
    """
    return frechet_distances([a], b)[0]


def frechet_distances(sets: Sequence[Moments], reference: Moments) -> list[float]:
    """The Frechet distance of each set from one reference, whose root is taken once."""
    known = _is_known(reference)
    root = _square_root(reference.covariance) if known else np.zeros(0)
    return [_distance(one, reference, root) if known and _is_known(one) else math.nan for one in sets]


def _is_known(one: Moments) -> bool:
    return one.count >= 2 and bool(np.isfinite(one.covariance).all() and np.isfinite(one.mean).all())


def _distance(a: Moments, b: Moments, root_b: NDArray[np.float64]) -> float:
    overlap = np.linalg.svd(_square_root(a.covariance) @ root_b, compute_uv=False).sum()
    step = a.mean - b.mean
    distance = step @ step + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap
    return float(max(distance, 0.0))


def _square_root(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(symmetric)
    # Rounding leaves eigenvalues a little below 0 where a covariance is singular.
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
