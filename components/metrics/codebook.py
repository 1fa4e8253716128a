"""Codebook usage and perplexity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from scipy import special

# Table 4: "the percentage of used codes given a batch of 256 test images".
USAGE_BATCH = 256


class Usage(NamedTuple):
    """The codebook as a test set uses it."""

    usage: float  # mean share of codes used by one batch, in [0, 1]
    used: float  # share of codes used by the whole set
    perplexity: float  # exp(entropy) of the codes of the whole set, in [1, codes]
    batches: int  # how many batches `usage` is a mean of
    batch_size: int  # images in each of them: 256, or fewer when the set has fewer
    counts: tuple[int, ...]  # [K], how often the whole set uses each code


class PlacedTokens(NamedTuple):
    """Tokens of B images, and their places in the set."""

    places: np.ndarray  # int64 [B]
    tokens: np.ndarray  # int32 [B, N]


class Codes(NamedTuple):
    """Counts of a partial set."""

    counts: np.ndarray  # int64 [K], how often each code was used
    used: dict[int, np.ndarray]  # by batch, bool [K], the codes that it uses
    images: dict[int, int]  # by batch, images so far


class CodebookUsageFn(beam.CombineFn):
    """`PlacedTokens` -> `Usage` by the rule of Table 4's caption.

    Distinct codes in a batch of 256 images over the size of the codebook, averaged over the full
    batches of the set; a set of fewer images is one smaller batch. Batch k has the images of the places from
    256 k on, in whichever order a runner reads them.
    """

    def __init__(self, codebook_size: int):
        self._size = codebook_size

    def create_accumulator(self) -> Codes:
        """An empty set."""
        return Codes(np.zeros(self._size, np.int64), {}, {})

    def add_input(self, accumulator: Codes, placed: PlacedTokens) -> Codes:
        """Add some images."""
        batches = placed.places // USAGE_BATCH
        used, images = dict(accumulator.used), dict(accumulator.images)
        for batch in np.unique(batches).tolist():
            own = placed.tokens[batches == batch]
            codes = used.get(batch, np.zeros(self._size, bool)).copy()
            codes[own.ravel()] = True
            used[batch], images[batch] = codes, images.get(batch, 0) + len(own)
        counts = np.bincount(placed.tokens.ravel(), minlength=self._size)
        return Codes(accumulator.counts + counts, used, images)

    def merge_accumulators(self, accumulators: Iterable[Codes]) -> Codes:
        """Merge partial sets."""
        merged = self.create_accumulator()
        none = np.zeros(self._size, bool)
        for one in accumulators:
            used = {
                batch: merged.used.get(batch, none) | one.used.get(batch, none)
                for batch in merged.used.keys() | one.used.keys()
            }
            images = {batch: merged.images.get(batch, 0) + one.images.get(batch, 0) for batch in used}
            merged = Codes(merged.counts + one.counts, used, images)
        return merged

    def extract_output(self, accumulator: Codes) -> Usage:
        """Usage and perplexity; NaN for no image."""
        counts, used, images = accumulator
        full = [batch for batch in sorted(used) if images[batch] == USAGE_BATCH]
        shares = [used[batch].mean() for batch in full or used]
        return Usage(
            float(np.mean(shares)) if shares else float("nan"),
            np.count_nonzero(counts) / self._size if shares else float("nan"),
            perplexity(counts),
            len(shares),
            USAGE_BATCH if full else sum(images.values()),
            tuple(counts.tolist()),
        )


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of codes used `counts` [K] times: K if all are used equally, 1 if only one is."""
    total = counts.sum()
    if not total:
        return float("nan")
    return float(np.exp(special.entr(counts / total).sum()))
