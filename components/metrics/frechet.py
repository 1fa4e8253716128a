"""The Fréchet distance between two sets of features (Heusel et al. 2017): FID on any feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # which imports Beam
    from components.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), at least 0, in units of squared features.

    The product C_a C_b is not symmetric, and its general matrix square root becomes complex or diverges if
    there are fewer images than dimensions. It has the eigenvalues of the symmetric, positive semi-definite
    C_a^(1/2) C_b C_a^(1/2), so the trace is the sum of their square roots.

    NaN if a set has fewer than two vectors, and so no covariance, or if a feature is not finite.
    """
    if min(a.count, b.count) < 2 or not np.isfinite(a.covariance + b.covariance).all():
        return float("nan")
    root = _square_root(a.covariance)
    between = np.linalg.eigvalsh(root @ b.covariance @ root)
    # Rounding leaves eigenvalues a little below 0 where a covariance is singular.
    overlap = np.sqrt(np.clip(between, 0.0, None)).sum()
    step = a.mean - b.mean
    distance = step @ step + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap
    return float(max(distance, 0.0))


def _square_root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
