"""Mean and covariance of a set of vectors, combined in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np

# Rows that share a product: with fewer its sum of [D, D] takes longer than the product.
GATHERED = 2048


@dataclass(frozen=True)
class Moments:
    """The first two moments of a set of vectors."""

    count: int
    mean: np.ndarray  # float64 [D]
    covariance: np.ndarray  # float64 [D, D], unbiased; nan for fewer than two vectors


@dataclass
class Scatter:
    """Moments of a partial set, as sums of products around the mean, so that nothing cancels."""

    count: int
    mean: np.ndarray  # float64 [D], or [] before the first vector
    products: np.ndarray  # float64 [D, D], sum of (x - mean)(x - mean)^T
    # Batches that are not added yet, fewer than `GATHERED` rows.
    waiting: list[np.ndarray] = field(default_factory=list)


class MomentsFn(beam.CombineFn):
    """Batches of vectors [B, D] -> `Moments`.

    Merges as Chan, Golub and LeVeque (1979): no large sums of squares are subtracted, and any tree of merges
    gives the same result up to rounding.
    """

    def create_accumulator(self) -> Scatter:
        """An empty set."""
        return Scatter(0, np.zeros(0), np.zeros((0, 0)))

    def add_input(self, accumulator: Scatter, batch: np.ndarray) -> Scatter:
        """Add the rows of one batch [B, D]."""
        if len(batch):
            accumulator.waiting.append(np.asarray(batch))
            if sum(map(len, accumulator.waiting)) >= GATHERED:
                _add_waiting(accumulator)
        return accumulator

    def compact(self, accumulator: Scatter) -> Scatter:
        """Add what waits, before the set is sent elsewhere."""
        _add_waiting(accumulator)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Scatter]) -> Scatter:
        """Merge partial sets."""
        merged = self.create_accumulator()
        for accumulator in accumulators:
            _add_waiting(accumulator)
            _merge(merged, accumulator)
        return merged

    def extract_output(self, accumulator: Scatter) -> Moments:
        """The moments of all that was added."""
        _add_waiting(accumulator)
        count, products = accumulator.count, accumulator.products
        covariance = products / (count - 1) if count > 1 else np.full_like(products, np.nan)
        return Moments(count, accumulator.mean, covariance)


def moments(vectors: np.ndarray) -> Moments:
    """The moments of vectors [B, D] in memory."""
    fn = MomentsFn()
    return fn.extract_output(fn.add_input(fn.create_accumulator(), vectors))


def merge(sets: Iterable[Moments]) -> Moments:
    """The moments of several sets together."""
    fn = MomentsFn()
    parts = (
        Scatter(one.count, one.mean, np.nan_to_num(one.covariance) * max(one.count - 1, 0)) for one in sets
    )
    return fn.extract_output(fn.merge_accumulators(parts))


def _add_waiting(into: Scatter) -> None:
    if not into.waiting:
        return
    rows = np.concatenate(into.waiting).astype(np.float64)
    into.waiting.clear()
    mean = rows.mean(axis=0)
    rows -= mean
    _merge(into, Scatter(len(rows), mean, rows.T @ rows))


def _merge(into: Scatter, other: Scatter) -> None:
    """Add a partial set to another, in place: its products may take half a gigabyte."""
    if not other.count:
        return
    if not into.count:
        into.count, into.mean, into.products = other.count, other.mean, other.products.copy()
        return
    count = into.count + other.count
    step = other.mean - into.mean
    into.products += other.products
    into.products += np.outer(step, step) * (into.count * other.count / count)
    into.mean = into.mean + step * (other.count / count)
    into.count = count
