"""Splits: their usual names, and the assignment of an image to one from its key alone."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

SPLITS = ("train", "eval")
DEFAULT_SHARES = {"train": 90, "eval": 10}
# Usual names of folders, lists, files and data sets, in any case.
TRAIN_NAMES = ("train", "training")
# The first that exists is the held-out split.
EVAL_NAMES = ("val", "valid", "validation", "eval", "dev", "test", "testing")


def split_of(key: str, shares: Mapping[str, int]) -> str:
    """The split of `key`, independent of the machine and of the other images.

    Args:
      key: the image's stable id.
      shares: split -> its share, positive; {"train": 90, "eval": 10} sends a tenth to eval.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % sum(shares.values())
    ends = accumulate(shares.values())
    return next(split for split, end in zip(shares, ends, strict=True) if bucket < end)


def splits_of_files(files: Sequence[str]) -> dict[str, str | None]:
    """The split of each file by the word that its name begins with, as `train-00000-of-00004.parquet`.

    None for every file if a name begins otherwise, or if there are not both splits; a file of a further
    held-out split is left out.
    """
    words = {file: re.match("[a-z]*", posixpath.basename(file).lower())[0] for file in files}  # type: ignore[index]
    own_eval = next((name for name in EVAL_NAMES if name in words.values()), None)
    own_train = next((name for name in TRAIN_NAMES if name in words.values()), None)
    if own_eval is None or own_train is None or not all(map(is_split_name, words.values())):
        return dict.fromkeys(files)
    chosen = {own_train: "train", own_eval: "eval"}
    return {file: chosen[word] for file, word in words.items() if word in chosen}


def is_split_name(name: str) -> bool:
    """Whether a name is that of a split."""
    return name.lower() in (*TRAIN_NAMES, *EVAL_NAMES)
