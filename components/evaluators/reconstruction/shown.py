"""Reconstructions that the report shows: some of all, and the best, the median and the worst."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from components.evaluators import files
from components.evaluators.reconstruction.reconstruct import PER_IMAGE, Reconstructed
from components.metrics import registry
from components.metrics.codebook import Usage

PAIRS_FILE, RANKED_FILE, CODES_FILE = "pairs.npz", "ranked.npz", "codes.npz"
PAIRS = 32
# Of each of best, median, worst; and the images of which those nearest to the median of all are shown.
RANKED, DRAWN = 4, 128

Pair = dict[str, Any]
_PAIR = ("labels", "originals", "reconstructions")


class WritePairs(beam.PTransform):
    """`Reconstructed` -> `pairs.npz` and `ranked.npz` in a folder.

    `pairs.npz`: `labels` int64 [K], `originals`, `reconstructions` uint8 [K, S, S, 3]. `ranked.npz` has the
    same, `groups` int64 [K], 0 for the best of all images, 1 for those near the median, 2 for the worst,
    `values` float64 [K] of a metric, and `by`, its name.
    """

    def __init__(self, by: str, folder: str):
        super().__init__()
        self._column = registry.names(PER_IMAGE).index(by)
        self._by = by
        self._folder = folder

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Select, then write."""
        pairs = batches | beam.FlatMap(_pairs, self._column, registry.better_of(self._by) == "higher")
        # In the order of a hash, pairs are of all classes, and the same in every run.
        drawn = pairs | "Draw" >> beam.combiners.Top.Smallest(DRAWN, key=lambda pair: pair["hash"])
        best, worst = (
            beam.pvalue.AsSingleton(
                pairs | name >> top(RANKED, key=lambda pair: (pair["loss"], pair["hash"]))
            )
            for name, top in (("Best", beam.combiners.Top.Smallest), ("Worst", beam.combiners.Top.Largest))
        )
        losses = beam.pvalue.AsSingleton(
            pairs | beam.Map(lambda pair: pair["loss"]) | "ListLosses" >> beam.combiners.ToList()
        )
        return drawn | beam.Map(_write, best, worst, losses, self._by, self._folder)


def write_codes(usage: Usage, folder: str) -> None:
    """Write `codes.npz`: `counts` int64 [K], how often each code is used."""
    files.write_arrays(os.path.join(folder, CODES_FILE), {"counts": np.array(usage.counts)})


def _pairs(batch: Reconstructed, column: int, higher_is_better: bool) -> Iterator[Pair]:
    rows = zip(
        batch.keys,
        batch.labels,
        batch.originals,
        batch.reconstructions,
        batch.per_image[:, column].tolist(),
        strict=True,
    )
    for key, label, original, reconstruction, value in rows:
        loss = -value if higher_is_better else value
        yield {
            "hash": zlib.crc32(key),
            "loss": math.inf if math.isnan(loss) else loss,
            "labels": label,
            # Copies: a view would keep its whole batch in memory.
            "originals": original.copy(),
            "reconstructions": reconstruction.copy(),
            "values": value,
        }


def _write(
    drawn: list[Pair], best: list[Pair], worst: list[Pair], losses: list[float], by: str, folder: str
) -> None:
    files.write_arrays(os.path.join(folder, PAIRS_FILE), _arrays(drawn[:PAIRS], _PAIR))
    median = float(np.median(losses))
    near = sorted(drawn, key=lambda pair: (abs(pair["loss"] - median), pair["hash"]))[:RANKED]
    ranked = [*best, *near, *worst]
    groups = np.repeat([0, 1, 2], [len(best), len(near), len(worst)])
    files.write_arrays(
        os.path.join(folder, RANKED_FILE),
        {**_arrays(ranked, (*_PAIR, "values")), "groups": groups, "by": np.array(by)},
    )


def _arrays(pairs: Sequence[Pair], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.stack([pair[name] for pair in pairs]) for name in names}
