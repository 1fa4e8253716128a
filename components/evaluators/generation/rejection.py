"""Rejection sampling by a classifier (Razavi et al. 2019, section 5; Table 6's acceptance rate).

Of each class more candidates are sampled than requested, and those with the highest probability of that class
are kept. The acceptance rate is the share that is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np

from components.evaluators.features import Features
from components.evaluators.generation.samples import Samples
from components.sampled_set import SamplingPlan


class KeepLikeliest(beam.PTransform):
    """`Samples` of candidates -> `Samples`, one batch a class, the plan's `samples` in all.

    Ties are broken by the lower image number, so any number of workers keeps the same images. Float32
    probabilities near 1 are often equal: their order means nothing. NaN comes last.

    Of a class, a worker holds features and class probabilities of about twice as many images as are kept (and
    as many for every partial set that it merges), and never an image.
    """

    def __init__(self, plan: SamplingPlan):
        super().__init__()
        self._plan = plan

    def expand(self, candidates: beam.PCollection) -> beam.PCollection:
        """Rank within each class."""
        most = -(-self._plan.samples // self._plan.classes)
        return (
            candidates
            | "ByClass" >> beam.FlatMap(_by_class)
            | "Likeliest" >> beam.CombinePerKey(LikeliestFn(most))
            | beam.Values()
            | "Kept" >> beam.Map(_kept, self._plan)
        )


class LikeliestFn(beam.CombineFn):
    """`Samples` of one class -> the `count` most likely of them, the most likely first."""

    def __init__(self, count: int):
        self._count = count

    def create_accumulator(self) -> list[Samples]:
        """An empty set."""
        return []

    def add_input(self, accumulator: list[Samples], batch: Samples) -> list[Samples]:
        """Add a batch; rank only when there are more than twice as many as are kept, to rank less often."""
        accumulator = [*accumulator, batch]
        if sum(len(part.indices) for part in accumulator) > 2 * self._count:
            return [self._likeliest(accumulator)]
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Samples]]) -> list[Samples]:
        """Merge partial sets."""
        parts = [part for accumulator in accumulators for part in accumulator]
        return [self._likeliest(parts)] if parts else []

    def extract_output(self, accumulator: list[Samples]) -> Samples:
        """The most likely of all that was added."""
        return self._likeliest(accumulator)

    def _likeliest(self, parts: list[Samples]) -> Samples:
        joined = _join(parts)
        order = np.lexsort((joined.indices, -joined.requested_probability))  # NaN sorts last
        return joined.take(order[: self._count])


def _by_class(batch: Samples) -> Iterator[tuple[int, Samples]]:
    for class_id in np.unique(batch.class_ids):
        yield int(class_id), batch.take(batch.class_ids == class_id)


def _kept(likeliest: Samples, plan: SamplingPlan) -> Samples:
    class_id = int(likeliest.class_ids[0])
    count = plan.samples // plan.classes + (class_id < plan.samples % plan.classes)
    kept = likeliest.take(np.arange(count))
    kept = kept.take(np.argsort(kept.indices))
    return kept._replace(places=np.arange(count, dtype=np.int64) * plan.classes + class_id)


def _join(parts: list[Samples]) -> Samples:
    *columns, every_features, recognition = zip(*parts, strict=True)
    places, indices, class_ids = (np.concatenate(column) for column in columns)
    return Samples(
        places,
        indices,
        class_ids,
        Features(*(np.concatenate(column) for column in zip(*every_features, strict=True))),
        np.concatenate(recognition),
    )
