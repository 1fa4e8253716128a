"""Kernel distances between two sets of features.

KID (Binkowski et al. 2018, arXiv:1801.01401) and CMMD (Jayasumana et al. 2024, arXiv:2401.09603).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# As published values are computed: subsets, and vectors of each set in one.
SUBSETS = 100
SUBSET_SIZE = 1000


# CMMD's bandwidth and the factor of its published values.
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
# Rows of a block of kernel values: with 50,000 columns 200 MB.
BLOCK = 500


class KernelDistance(NamedTuple):
    """The distance, in units of the kernel, and its standard deviation over subsets."""

    mean: float
    deviation: float


def kernel_distance(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    seed: int = 0,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> KernelDistance:
    """Squared maximum mean discrepancy under the kernel (x y / D + 1)^3, unbiased, over random subsets.

    Unlike the Frechet distance its mean does not depend on the number of images, and it may be negative.

    Args:
      a: features [N, D].
      b: features [M, D].
      seed: of the subsets, drawn without replacement.
      subsets: how many.
      subset_size: vectors of each set in one, or all of the smaller set.

    Returns:
      NaN where a set has fewer than two vectors or a feature is not finite. The deviation is NaN where every
      subset would be the whole set.
    """
    size = min(len(a), len(b), subset_size)
    if size < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return KernelDistance(float("nan"), float("nan"))
    whole = size == len(a) == len(b)
    generator = np.random.default_rng(seed)
    values = [
        _unbiased(
            a[generator.choice(len(a), size, replace=False)], b[generator.choice(len(b), size, replace=False)]
        )
        for _ in range(1 if whole else subsets)
    ]
    return KernelDistance(float(np.mean(values)), float("nan") if whole else float(np.std(values)))


def clip_mmd(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """CMMD: squared maximum mean discrepancy under a Gaussian kernel, of CLIP's embeddings at length 1.

    As it is published: with each vector's similarity to itself, so at least 0, and times 1,000.

    Args:
      a: embeddings [N, D], of any length.
      b: embeddings [M, D].

    Returns:
      NaN where a set is empty or a feature is not finite.
    """
    if not (len(a) and len(b) and np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    a, b = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (np.float64(a), np.float64(b)))
    return CMMD_SCALE * (_gaussian_mean(a, a) + _gaussian_mean(b, b) - 2.0 * _gaussian_mean(a, b))


def _gaussian_mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The mean of exp(-|x - y|^2 / 2 sigma^2) over all pairs of vectors of length 1."""
    total = 0.0
    for start in range(0, len(a), BLOCK):
        squares = 2.0 - 2.0 * (a[start : start + BLOCK] @ b.T)
        total += float(np.exp(-squares / (2.0 * CMMD_SIGMA**2)).sum())
    return total / (len(a) * len(b))


def _unbiased(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = len(a)
    within = sum(float(kernel.sum() - np.trace(kernel)) for kernel in (_kernel(a, a), _kernel(b, b)))
    return within / (size * (size - 1)) - 2.0 * float(_kernel(a, b).mean())


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return (a @ b.T / a.shape[1] + 1.0) ** 3
