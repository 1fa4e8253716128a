"""Squared Euclidean distances between sets of vectors, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Rows of a block: with 50,000 columns 200 MB.
BLOCK = 500

Vectors = NDArray[np.floating]


class Centred:
    """Vectors [M, D] to measure distances to, around their mean.

    Sums of squares that are large beside their difference would cancel.
    """

    def __init__(self, vectors: Vectors):
        self._centre = vectors.mean(axis=0, dtype=np.float64)
        self._vectors = vectors.astype(np.float64) - self._centre
        self._squares = np.einsum("nd,nd->n", self._vectors, self._vectors)

    def distances(self, rows: Vectors) -> NDArray[np.float64]:
        """Squared distances [B, M] of rows [B, D]."""
        centred = rows.astype(np.float64) - self._centre
        squares = np.einsum("nd,nd->n", centred, centred)[:, np.newaxis] + self._squares
        return np.maximum(squares - 2.0 * centred @ self._vectors.T, 0.0)


def blocks(a: Vectors, b: Vectors) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Squared distances of some rows of `a` [., D] to all of `b` [M, D], from which row on."""
    to = Centred(b)
    for start in range(0, len(a), BLOCK):
        yield start, to.distances(a[start : start + BLOCK])
