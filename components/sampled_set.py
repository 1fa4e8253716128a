"""A set of sampled images: which images it has, and what its artifact says of itself.

An artifact of sampled images is an Examples artifact. A record has `image/encoded` (PNG), `image/key`,
`image/label` if the model has classes, `tokens` (int64 [N]), `image/number` and `image/seed`. Shard k
holds the places from k times `shard_size` on, in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from components.dataset import Dataset
from serving.export.sampling_params import SamplingParams

# Splits of the artifact: images of the model, and those of the last pushed one to compare with.
SAMPLES, PUSHED = "samples", "pushed"


class SamplingPlan(NamedTuple):
    """The set to sample: image i is of class i % classes and has its own seed.

    Of N samples and C classes, class c has n_c = N // C, and one more if c < N % C. With an acceptance r
    below 1, ceil(n_c / r) candidates of it are sampled, so that every class is selected from at least as many
    as r asks for. Candidate number k of class c is image k C + c: for every r, the first candidates of a
    class are the images that acceptance 1 samples.
    """

    samples: int
    classes: int  # 0: unconditional
    acceptance: float  # in (0, 1]
    params: SamplingParams

    @property
    def candidates(self) -> int:
        """How many images are sampled: `samples` at acceptance 1."""
        rounds, more = self._rounds()
        return rounds * self._cycle + (more - rounds) * (self.samples % self._cycle)

    def shards(self, size: int) -> list[int]:
        """How many candidates each shard has: `size`, the last one perhaps fewer."""
        whole, rest = divmod(self.candidates, size)
        return [size] * whole + [rest] * (rest > 0)

    def indices(self, places: np.ndarray) -> np.ndarray:
        """The image numbers of candidates, int64 [B], by their places in [0, candidates).

        All classes take turns; then come the candidates that only the first N % C classes have.
        """
        common, rounds, first = self._common()
        rest = places - common
        beyond = (rounds + rest // first) * self._cycle + rest % first
        return np.where(places < common, places, beyond).astype(np.int64)

    def places(self, indices: np.ndarray) -> np.ndarray:
        """The places of candidates, int64 [B], by their image numbers: the inverse of `indices`."""
        common, rounds, first = self._common()
        beyond = common + (indices // self._cycle - rounds) * first + indices % self._cycle
        return np.where(indices < common, indices, beyond).astype(np.int64)

    def class_ids(self, indices: np.ndarray) -> np.ndarray:
        """int32 [B]; 0 without classes."""
        return (indices % self._cycle).astype(np.int32)

    def row_seeds(self, indices: np.ndarray) -> np.ndarray:
        """int64 [B]: the set's seed in the upper half, the image number in the lower, so all are distinct."""
        return (np.int64(self.params.seed % 2**31) << np.int64(32)) + indices.astype(np.int64)

    @property
    def _cycle(self) -> int:
        return max(self.classes, 1)

    def _common(self) -> tuple[int, int, int]:
        """Candidates that all classes have, their rounds, and how many classes have more."""
        rounds, _ = self._rounds()
        return rounds * self._cycle, rounds, max(self.samples % self._cycle, 1)

    def _rounds(self) -> tuple[int, int]:
        """Candidates of a class with N // C samples, and of one with a sample more."""
        # The decimal number as it was written: as a binary one, 0.1 is a little more than a tenth.
        acceptance = Fraction(str(self.acceptance))
        fewer = self.samples // self._cycle
        return math.ceil(fewer / acceptance), math.ceil((fewer + 1) / acceptance)


@dataclass(frozen=True, kw_only=True)
class SampledSet(Dataset):
    """Contents of an artifact of sampled images.

    Attributes:
      samples: how many images are scored.
      acceptance: the share of candidates that is kept, in (0, 1]; the artifact has all candidates.
      sampling: SamplingParams.
      shard_size: images of a file; the last one may have fewer.
      image_size: S, pixels a side.
      compiled: whether XLA's program drew them, whose last bits are its own.
      pushed: version of the last pushed model, which drew the split `pushed`; "" if there is none.
      pushed_problem: why that model could not draw the same set; "" if it could.
    """

    samples: int
    acceptance: float
    sampling: Mapping[str, Any]
    shard_size: int
    image_size: int
    compiled: bool
    pushed: str
    pushed_problem: str

    @property
    def plan(self) -> SamplingPlan:
        """Which images these are."""
        params = SamplingParams.model_validate(self.sampling)
        return SamplingPlan(self.samples, len(self.class_names), self.acceptance, params)
