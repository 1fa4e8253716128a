"""The Fréchet distance between two sets of features (Heusel et al. 2017): FID on any feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # which imports Beam
    from components.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), at least 0, in units of squared features.

    The product C_a C_b is not symmetric, and its general matrix square root becomes complex or diverges if
    there are fewer images than dimensions. Its eigenvalues are those of C_a^(1/2) C_b C_a^(1/2); the square
    roots of these are the singular values of C_a^(1/2) C_b^(1/2), where no root is taken of rounding near 0.

    NaN if a set has fewer than two vectors, and so no covariance, or if a feature is not finite.
    """
    if min(a.count, b.count) < 2 or not np.isfinite(a.covariance + b.covariance).all():
        return float("nan")
    roots = _square_root(a.covariance) @ _square_root(b.covariance)
    overlap = np.linalg.svd(roots, compute_uv=False).sum()
    step = a.mean - b.mean
    distance = step @ step + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap
    return float(max(distance, 0.0))


def _square_root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    # Rounding leaves eigenvalues a little below 0 where a covariance is singular.
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
