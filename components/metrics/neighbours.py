"""The nearest vectors of a set that passes by in batches, in any order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.metrics.distances import Centred

# Where fewer than K vectors were seen.
NOBODY = -1


class Neighbours(NamedTuple):
    """The nearest vectors of Q queries, the nearest first; of equal ones the first of the set."""

    distances: NDArray[np.float64]  # [Q, K], squared; infinite for `NOBODY`
    places: NDArray[np.int64]  # [Q, K], in the set


def nearest(queries: Centred, vectors: NDArray[np.floating], places: NDArray[np.int64], k: int) -> Neighbours:
    """The k nearest of vectors [B, D] at these places [B] of the set; those not finite are infinitely far."""
    distances = queries.distances(vectors).T
    distances[np.isnan(distances)] = np.inf
    everywhere = np.broadcast_to(places, distances.shape)
    if len(places) <= k:
        return _first(distances, everywhere, k)
    # Sorting whole batches would take longer than the distances.
    few = np.argpartition(distances, k - 1, axis=1)[:, :k]
    return _first(np.take_along_axis(distances, few, axis=1), np.take_along_axis(everywhere, few, axis=1), k)


def merge(parts: Iterable[Neighbours], k: int) -> Neighbours:
    """The k nearest among the nearest of parts of a set; at least one part."""
    found = list(parts)
    return _first(
        np.concatenate([part.distances for part in found], axis=1),
        np.concatenate([part.places for part in found], axis=1),
        k,
    )


def _first(distances: NDArray[np.float64], places: NDArray[np.int64], k: int) -> Neighbours:
    missing = ((0, 0), (0, max(0, k - distances.shape[1])))
    distances = np.pad(distances, missing, constant_values=np.inf)
    places = np.pad(places, missing, constant_values=NOBODY)
    # Any `NOBODY` after everything that was seen.
    order = np.lexsort((places, places == NOBODY, distances), axis=-1)[:, :k]
    return Neighbours(np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1))
