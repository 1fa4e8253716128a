"""From batches anywhere on Beam's workers to scores of the whole set in the executor's hands."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tfx.dsl.io import fileio

from components.evaluators import files
from components.metrics.inception import InceptionScoreFn


class Combine(beam.PTransform):
    """One `fn` over an attribute (dots allowed) of all batches."""

    def __init__(self, attribute: str, fn: beam.CombineFn):
        super().__init__(f"Combine {attribute}")
        self._attribute = attribute
        self._fn = fn

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Takes the attribute, then combines."""
        return batches | beam.Map(operator.attrgetter(self._attribute)) | beam.CombineGlobally(self._fn)


class InceptionScores(beam.PTransform):
    """(split of each image int [B], class probabilities [B, C]) -> one list: the score of each split."""

    def expand(self, answers: beam.PCollection) -> beam.PCollection[list[float]]:
        """Scores each split, then lists."""
        return (
            answers
            | beam.FlatMap(_by_split)
            | beam.CombinePerKey(InceptionScoreFn())
            | beam.Values()
            | beam.combiners.ToList()
        )


def write_scores(
    pipeline: beam.Pipeline,
    path: str,
    score: Callable[..., Mapping[str, Any]],
    **statistics: beam.PCollection,
) -> None:
    """Writes `score(**statistics)` as JSON once every statistic, one value each, is in.

    A file, because on a remote runner nothing else comes back to the process that built the pipeline.
    """

    def write(path: str, **values: Any) -> None:
        files.write_json(path, score(**values))

    singletons = {name: beam.pvalue.AsSingleton(value) for name, value in statistics.items()}
    _ = pipeline | "Score" >> beam.Create([path]) | "WriteScores" >> beam.Map(write, **singletons)


def take_scores(path: str) -> dict[str, Any]:
    """What `write_scores` left, which is gone then; null is read as not a number."""
    scores = files.read_json(path)
    fileio.remove(path)
    return {name: math.nan if value is None else value for name, value in scores.items()}


def _by_split(answer: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    splits, probabilities = answer
    for split in np.unique(splits):
        yield int(split), probabilities[splits == split]
