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
    perplexity: float  # exp(entropy) of the codes of the whole set, in [1, codes]
    batches: int  # how many batches `usage` is a mean of
    batch_size: int  # images in each of them: 256, or fewer when the set has fewer


class Codes(NamedTuple):
    """Counts of a partial set."""

    counts: np.ndarray  # int64 [K], how often each code was used
    usages: float  # sum over the full batches
    batches: int
    waiting: np.ndarray  # int32 [B, N], tokens of fewer than 256 images, not a full batch yet


class CodebookUsageFn(beam.CombineFn):
    """Batches of tokens [B, N] -> `Usage` by the rule of Table 4's caption.

    Distinct codes in a batch of 256 images over the size of the codebook, averaged over the full
    batches of the set; a set of fewer images is one smaller batch. A runner that reorders images forms other
    batches, and the mean differs in its last digits.
    """

    def __init__(self, codebook_size: int):
        self._size = codebook_size

    def create_accumulator(self) -> Codes:
        """An empty set."""
        return Codes(np.zeros(self._size, np.int64), 0.0, 0, np.zeros((0, 0), np.int32))

    def add_input(self, accumulator: Codes, tokens: np.ndarray) -> Codes:
        """Add the images of one batch [B, N]."""
        counts = np.bincount(tokens.ravel(), minlength=self._size)
        return self._merge(accumulator, Codes(counts, 0.0, 0, np.asarray(tokens, np.int32)))

    def merge_accumulators(self, accumulators: Iterable[Codes]) -> Codes:
        """Merge partial sets; what waits in each may now fill batches."""
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = self._merge(merged, accumulator)
        return merged

    def extract_output(self, accumulator: Codes) -> Usage:
        """Usage and perplexity; NaN for no image."""
        counts, usages, batches, waiting = accumulator
        if batches:
            return Usage(usages / batches, perplexity(counts), batches, USAGE_BATCH)
        usage = codebook_usage(waiting, self._size) if len(waiting) else float("nan")
        return Usage(usage, perplexity(counts), min(len(waiting), 1), len(waiting))

    def _merge(self, a: Codes, b: Codes) -> Codes:
        waiting = np.concatenate([part.waiting for part in (a, b) if len(part.waiting)] or [a.waiting])
        full = len(waiting) // USAGE_BATCH
        cut = full * USAGE_BATCH
        usages = sum(
            codebook_usage(waiting[start : start + USAGE_BATCH], self._size)
            for start in range(0, cut, USAGE_BATCH)
        )
        return Codes(
            a.counts + b.counts, a.usages + b.usages + usages, a.batches + b.batches + full, waiting[cut:]
        )


def codebook_usage(tokens: np.ndarray, codebook_size: int) -> float:
    """The share of the codes that these tokens (int, any shape) use, in [0, 1]."""
    return len(np.unique(tokens)) / codebook_size


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of codes used `counts` [K] times: K if all are used equally, 1 if only one is."""
    total = counts.sum()
    if not total:
        return float("nan")
    return float(np.exp(special.entr(counts / total).sum()))
