"""Sidecars of an Examples artifact: `dataset.json` and `quarantine.jsonl`, at the artifact's root.

They tell what the records are without reading them: classes, counts and a fingerprint of the
content in `dataset.json`; what was left out, and why, in `quarantine.jsonl` (absent when nothing
was).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple, TypedDict, TypeVar

import tensorflow as tf

from serving.export.atomic import write_atomic

DATASET = "dataset.json"
QUARANTINE = "quarantine.jsonl"
NAMED_IN_ERRORS = 5

AnyDataset = TypeVar("AnyDataset", bound="Dataset")


class SplitCounts(TypedDict):
    """How many records stand in a split, and in each of its files."""

    records: int
    shards: list[int]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What stands in an Examples artifact.

    Attributes:
      source: the collection the images came from, as the configuration names it.
      fingerprint: 16 hex digits that change with any record.
      class_names: the name of each label; empty when unlabelled.
      splits: the counts of each split.
      broken: how many inputs were skipped; `read_quarantine` lists them.
    """

    source: str
    fingerprint: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitCounts]
    broken: int = 0

    @classmethod
    def read(cls: type[AnyDataset], uri: str) -> AnyDataset:
        """The sidecar of the artifact at `uri`; `ValueError` where there is none that can be read.

        Keys that `cls` does not know are left aside, so a token artifact reads as a plain `Dataset`.
        """
        path = os.path.join(uri, DATASET)
        try:
            with tf.io.gfile.GFile(path) as file:
                content = json.load(file)
            known = {field.name: content[field.name] for field in fields(cls)}
        except (tf.errors.OpError, json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{path} is no {DATASET}: {type(error).__name__} {error}") from error
        return cls(**{**known, "class_names": tuple(known["class_names"])})

    def write(self, uri: str) -> None:
        """Writes the sidecar into the artifact at `uri`, whole or not at all."""
        write_atomic(os.path.join(uri, DATASET), json.dumps(asdict(self), indent=2) + "\n")

    def records(self, split: str) -> int:
        """How many records stand in `split`."""
        return self.splits[split]["records"]


@dataclass(frozen=True, kw_only=True)
class TokenDataset(Dataset):
    """What stands in a token Examples artifact; the records counted are rows of tokens.

    Attributes:
      augmentations: random crops of a training image, beside its centre crop.
      tokens: N, tokens a row.
      codebook_size: tokens are in [0, codebook_size).
    """

    augmentations: int
    tokens: int
    codebook_size: int


class Broken(NamedTuple):
    """An input that was left out."""

    key: str
    reason: str


class TooManyBroken(ValueError):
    """More inputs are broken than the run allows; the message is one line for the user."""


def check_broken(broken: Sequence[Broken], total: int, limit: float) -> None:
    """Raises `TooManyBroken`, with the first names, where more than `limit` (a fraction) of `total` is."""
    if len(broken) <= limit * total:
        return
    named = ", ".join(f"{key} ({reason})" for key, reason in broken[:NAMED_IN_ERRORS])
    more = ", ..." if len(broken) > NAMED_IN_ERRORS else ""
    raise TooManyBroken(
        f"{len(broken)} of {total} images are broken ({len(broken) / total:.1%}), "
        f"allowed are {limit:.1%}: {named}{more}"
    )


def write_quarantine(uri: str, broken: Iterable[Broken]) -> None:
    """Writes the list of what was left out into the artifact at `uri`, a JSON object a line."""
    lines = [json.dumps(entry._asdict()) + "\n" for entry in broken]
    if lines:
        write_atomic(os.path.join(uri, QUARANTINE), "".join(lines))


def read_quarantine(uri: str) -> list[Broken]:
    """What was left out of the artifact at `uri`."""
    path = os.path.join(uri, QUARANTINE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [Broken(**json.loads(line)) for line in file]
