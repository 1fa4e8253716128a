"""Rejection sampling by a classifier (Razavi et al. 2019, section 5; Table 6's acceptance rate).

Of each class more candidates are drawn than are wanted, and those are kept to which the classifier gives
the highest probability of that class. The acceptance rate is the share that is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np

from components.evaluators.features import Description
from components.evaluators.generation.draw import Drawn, Plan


class KeepLikeliest(beam.PTransform):
    """`Drawn` candidates -> `Drawn` sets, one a class, that make the plan's `samples` together.

    Equal probabilities are decided by the lower image number, so any number of workers keeps the same
    images. Float32 probabilities near 1 are often equal: that deep into a class the order says nothing.
    A probability that is not a number comes last.

    What a worker holds of a class is features and class probabilities of about twice as many images as are
    kept, where partial sets meet as many times that, and never a picture.
    """

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, candidates: beam.PCollection) -> beam.PCollection:
        """Ranks within each class."""
        most = -(-self._plan.samples // self._plan.classes)
        return (
            candidates
            | "ByClass" >> beam.FlatMap(_by_class)
            | "Likeliest" >> beam.CombinePerKey(LikeliestFn(most))
            | beam.Values()
            | "Kept" >> beam.Map(_kept, self._plan)
        )


class LikeliestFn(beam.CombineFn):
    """`Drawn` batches of one class -> the `count` likeliest of them, likeliest first."""

    def __init__(self, count: int):
        self._count = count

    def create_accumulator(self) -> list[Drawn]:
        """Nothing seen."""
        return []

    def add_input(self, accumulator: list[Drawn], batch: Drawn) -> list[Drawn]:
        """Adds a batch; ranks only once there are twice as many as are kept, which costs less."""
        accumulator = [*accumulator, batch]
        if sum(len(part.indices) for part in accumulator) > 2 * self._count:
            return [self._likeliest(accumulator)]
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Drawn]]) -> list[Drawn]:
        """Joins partial sets."""
        parts = [part for accumulator in accumulators for part in accumulator]
        return [self._likeliest(parts)] if parts else []

    def extract_output(self, accumulator: list[Drawn]) -> Drawn:
        """The likeliest of all that was added."""
        return self._likeliest(accumulator)

    def _likeliest(self, parts: list[Drawn]) -> Drawn:
        joined = _join(parts)
        wanted = joined.wanted
        order = np.lexsort((joined.indices, -wanted))  # numbers that are not sort last
        return joined.take(order[: self._count])


def _by_class(batch: Drawn) -> Iterator[tuple[int, Drawn]]:
    for class_id in np.unique(batch.class_ids):
        yield int(class_id), batch.take(batch.class_ids == class_id)


def _kept(likeliest: Drawn, plan: Plan) -> Drawn:
    class_id = int(likeliest.class_ids[0])
    wanted = plan.samples // plan.classes + (class_id < plan.samples % plan.classes)
    kept = likeliest.take(np.arange(wanted))
    kept = kept.take(np.argsort(kept.indices))
    return kept._replace(places=np.arange(wanted, dtype=np.int64) * plan.classes + class_id)


def _join(parts: list[Drawn]) -> Drawn:
    *columns, descriptions = zip(*parts, strict=True)
    places, indices, class_ids = (np.concatenate(column) for column in columns)
    return Drawn(
        places,
        indices,
        class_ids,
        Description(*(np.concatenate(column) for column in zip(*descriptions, strict=True))),
    )
