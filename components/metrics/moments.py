"""Mean and covariance of a set of vectors, combined in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np


@dataclass(frozen=True)
class Moments:
    """The first two moments of a set of vectors."""

    count: int
    mean: np.ndarray  # float64 [D]
    covariance: np.ndarray  # float64 [D, D], unbiased; nan for fewer than two vectors


@dataclass(frozen=True)
class Scatter:
    """Moments of a partial set, as sums of products around the mean, so that nothing cancels."""

    count: int
    mean: np.ndarray  # float64 [D], or [] before the first vector
    products: np.ndarray  # float64 [D, D], sum of (x - mean)(x - mean)^T


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
        if not len(batch):
            return accumulator
        batch = np.asarray(batch, np.float64)
        mean = batch.mean(axis=0)
        centred = batch - mean
        return _merge(accumulator, Scatter(len(batch), mean, centred.T @ centred))

    def merge_accumulators(self, accumulators: Iterable[Scatter]) -> Scatter:
        """Merge partial sets."""
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = _merge(merged, accumulator)
        return merged

    def extract_output(self, accumulator: Scatter) -> Moments:
        """The moments of all that was added."""
        count, products = accumulator.count, accumulator.products
        covariance = products / (count - 1) if count > 1 else np.full_like(products, np.nan)
        return Moments(count, accumulator.mean, covariance)


def moments(vectors: np.ndarray) -> Moments:
    """The moments of vectors [B, D] in memory."""
    fn = MomentsFn()
    return fn.extract_output(fn.add_input(fn.create_accumulator(), vectors))


def _merge(a: Scatter, b: Scatter) -> Scatter:
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    step = b.mean - a.mean
    return Scatter(
        count,
        a.mean + step * (b.count / count),
        a.products + b.products + np.outer(step, step) * (a.count * b.count / count),
    )
