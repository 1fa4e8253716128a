"""Splits: their usual names, and the assignment of an image to one from its key alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from itertools import accumulate

SPLITS = ("train", "eval")
DEFAULT_SHARES = {"train": 90, "eval": 10}
# Usual names of folders, lists, files and data sets, in any case.
TRAIN_NAMES = ("train", "training")
# The first that exists is the held-out split.
EVAL_NAMES = ("val", "valid", "validation", "eval", "dev", "test", "testing")
# Words beside the split's in a name, and names of splits that are neither of the two.
_FILLERS = ("set", "split", "seg", "image", "images", "img", "imgs", "data")
_NOT_SPLITS = ("trainval", "holdout", "heldout")


def split_of(key: str, shares: Mapping[str, int]) -> str:
    """The split of `key`, independent of the machine and of the other images.

    Args:
      key: the image's stable id.
      shares: split -> its share, positive; {"train": 90, "eval": 10} sends a tenth to eval.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % sum(shares.values())
    ends = accumulate(shares.values())
    return next(split for split, end in zip(shares, ends, strict=True) if bucket < end)


def split_word(name: str) -> str:
    """The split that a name stands for, as `Test`, `training_set` and `val2017` do; "" for none."""
    words = [word for word in re.findall("[a-z]+", name.lower()) if word not in _FILLERS]
    if len(words) != 1:
        return ""
    word = words[0].removesuffix("set")
    return word if word in (*TRAIN_NAMES, *EVAL_NAMES, *_NOT_SPLITS) else ""


def is_split_name(name: str) -> bool:
    """Whether a name is like that of a split."""
    return bool(split_word(name))


def choose_splits(words: Collection[str]) -> dict[str, str]:
    """The word of the split to train on -> "train", and that of the held-out one -> "eval".

    Empty if one of them is missing.
    """
    train = next((name for name in TRAIN_NAMES if name in words), None)
    held_out = next((name for name in EVAL_NAMES if name in words), None)
    return {train: "train", held_out: "eval"} if train and held_out else {}


def word_in_path(path: str) -> str:
    """The split that a path names, by a word of its file's name or of the nearest folder that has one."""
    for part in reversed(path.split("/")):
        found = [word for word in re.findall("[a-z]+", part.lower()) if split_word(word)]
        if found:
            return found[0].removesuffix("set")
    return ""
