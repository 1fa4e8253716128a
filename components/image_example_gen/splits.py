"""Assignment of an image to a split, from its key alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import accumulate

SPLITS = ("train", "eval")
DEFAULT_SHARES = {"train": 90, "eval": 10}


def split_of(key: str, shares: Mapping[str, int]) -> str:
    """The split of `key`, independent of the machine and of the other images.

    Args:
      key: the image's stable id.
      shares: split -> its share, positive; {"train": 90, "eval": 10} sends a tenth to eval.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % sum(shares.values())
    ends = accumulate(shares.values())
    return next(split for split, end in zip(shares, ends, strict=True) if bucket < end)
