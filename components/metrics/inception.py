"""The Inception Score (Salimans et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from scipy import special


@dataclass(frozen=True)
class ProbabilitySums:
    """Sums over the class probabilities of a set of images."""

    count: int
    probabilities: np.ndarray  # float64 [C], or [] before the first image
    negative_entropy: float  # nats


class InceptionScoreFn(beam.CombineFn):
    """Batches of class probabilities [B, C] -> exp(E_x KL(p(y|x) || p(y))), in [1, C].

    E_x KL = E_x sum_y p(y|x) ln p(y|x) - sum_y p(y) ln p(y): two sums, so that no image is kept.
    """

    def create_accumulator(self) -> ProbabilitySums:
        """An empty set."""
        return ProbabilitySums(0, np.zeros(0), 0.0)

    def add_input(self, accumulator: ProbabilitySums, batch: np.ndarray) -> ProbabilitySums:
        """Add the rows of one batch [B, C]."""
        if not len(batch):
            return accumulator
        batch = np.asarray(batch, np.float64)
        entropy = float(special.xlogy(batch, batch).sum())
        return _merge(accumulator, ProbabilitySums(len(batch), batch.sum(axis=0), entropy))

    def merge_accumulators(self, accumulators: Iterable[ProbabilitySums]) -> ProbabilitySums:
        """Merge partial sets."""
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = _merge(merged, accumulator)
        return merged

    def extract_output(self, accumulator: ProbabilitySums) -> float:
        """The score; NaN for no image."""
        count = accumulator.count
        if not count:
            return float("nan")
        marginal = accumulator.probabilities / count
        entropy = special.entr(marginal).sum()
        return float(np.exp(accumulator.negative_entropy / count + entropy))


def mean_and_deviation(scores: Sequence[float]) -> tuple[float, float]:
    """The score as it is quoted: mean and standard deviation over the splits of the set."""
    return float(np.mean(scores)), float(np.std(scores))


def inception_score(probabilities: np.ndarray, splits: int = 1) -> tuple[float, float]:
    """Mean and deviation of the score over `splits` equal parts of class probabilities [N, C]."""
    fn = InceptionScoreFn()
    parts = np.array_split(probabilities, splits)
    return mean_and_deviation(
        [fn.extract_output(fn.add_input(fn.create_accumulator(), part)) for part in parts]
    )


def _merge(a: ProbabilitySums, b: ProbabilitySums) -> ProbabilitySums:
    if not a.count or not b.count:
        return a if a.count else b
    return ProbabilitySums(
        a.count + b.count, a.probabilities + b.probabilities, a.negative_entropy + b.negative_entropy
    )
