"""Combines batches on Beam's workers into scores that the executor reads."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tfx.dsl.io import fileio

from components.evaluators import files
from components.metrics.inception import InceptionScoreFn


class Combine(beam.PTransform):
    """Combine an attribute (dots allowed) of all batches with one `fn`."""

    def __init__(self, attribute: str, fn: beam.CombineFn):
        super().__init__(f"Combine {attribute}")
        self._attribute = attribute
        self._fn = fn

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Read the attribute, then combine."""
        return batches | beam.Map(operator.attrgetter(self._attribute)) | beam.CombineGlobally(self._fn)


class InceptionScores(beam.PTransform):
    """(split of each image int [B], class probabilities [B, C]) -> one list: the score of each split."""

    def expand(self, answers: beam.PCollection) -> beam.PCollection[list[float]]:
        """Score each split, then list."""
        return (
            answers
            | beam.FlatMap(_by_split)
            | beam.CombinePerKey(InceptionScoreFn())
            | beam.Values()
            | beam.combiners.ToList()
        )


class Accuracy(beam.PTransform):
    """(hits, images) of batches -> the share of hits in all images; NaN without any."""

    def expand(self, batches: beam.PCollection) -> beam.PCollection[float]:
        """Sum, then divide."""
        return batches | beam.CombineGlobally(_sums) | beam.Map(_share)


def write_scores(
    pipeline: beam.Pipeline,
    path: str,
    score: Callable[..., Mapping[str, Any]],
    **statistics: beam.PCollection,
) -> None:
    """Write `score(**statistics)` as JSON; each statistic is a PCollection of one value.

    To a file, because on a remote runner nothing else returns to the process that built the pipeline.
    """

    def write(path: str, **values: Any) -> None:
        files.write_json(path, score(**values))

    name = os.path.basename(path)
    singletons = {name: beam.pvalue.AsSingleton(value) for name, value in statistics.items()}
    _ = pipeline | f"Score {name}" >> beam.Create([path]) | f"Write {name}" >> beam.Map(write, **singletons)


def take_scores(path: str) -> dict[str, Any]:
    """Read what `write_scores` wrote, and remove it; null becomes NaN."""
    scores = files.read_json(path)
    fileio.remove(path)
    return {name: math.nan if value is None else value for name, value in scores.items()}


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    hits = images = 0
    for one in pairs:
        hits, images = hits + one[0], images + one[1]
    return hits, images


def _share(sums: tuple[int, int]) -> float:
    hits, images = sums
    return hits / images if images else math.nan


def _by_split(answer: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    splits, probabilities = answer
    for split in np.unique(splits):
        yield int(split), probabilities[splits == split]
