"""Sidecar files `dataset.json` and `quarantine.jsonl` at the root of an Examples artifact.

`dataset.json` holds classes, record counts and a fingerprint of the content, so that readers need not
scan the records. `quarantine.jsonl` lists the skipped inputs with reasons; it is absent if there are none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple, TypedDict, TypeVar

import tensorflow as tf

from serving.export.atomic import write_atomic
from serving.export.records import DamagedFile

DATASET = "dataset.json"
QUARANTINE = "quarantine.jsonl"
NAMED_IN_ERRORS = 5

AnyDataset = TypeVar("AnyDataset", bound="Dataset")


class SplitCounts(TypedDict):
    """Number of records in a split and in each of its files."""

    records: int
    shards: list[int]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Contents of an Examples artifact.

    Attributes:
      source: the collection the images came from, as the configuration names it.
      fingerprint: 16 hex digits that change with any record.
      class_names: the name of each label; empty when unlabelled.
      splits: the counts of each split.
      broken: number of skipped inputs; `read_quarantine` lists them.
      notes: what was decided about the source, a line each.
    """

    source: str
    fingerprint: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitCounts]
    broken: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls: type[AnyDataset], uri: str) -> AnyDataset:
        """Read the sidecar of the artifact at `uri`.

        Keys that `cls` does not have are ignored, so a token artifact can be read as a plain `Dataset`.

        Raises:
          ValueError: the sidecar is missing or malformed.
        """
        path = os.path.join(uri, DATASET)
        try:
            with tf.io.gfile.GFile(path) as file:
                content = json.load(file)
            names = [field.name for field in fields(cls) if field.name != "notes" or "notes" in content]
            known = {name: content[name] for name in names}
        except (tf.errors.OpError, json.JSONDecodeError, KeyError) as error:
            raise ValueError(
                f"{path} must be a valid {DATASET}, got {type(error).__name__} {error}"
            ) from error
        texts = {name: tuple(known.get(name, ())) for name in ("class_names", "notes")}
        return cls(**{**known, **texts})

    def write(self, uri: str) -> None:
        """Write the sidecar into the artifact at `uri`, atomically."""
        write_atomic(os.path.join(uri, DATASET), json.dumps(asdict(self), indent=2) + "\n")

    def records(self, split: str) -> int:
        """Number of records in `split`."""
        return self.splits[split]["records"]

    def records_in(self, split: str, files: Sequence[str]) -> list[int]:
        """Number of records in each of the files of `split`, in order.

        Raises:
          DamagedFile: there are more or fewer files than were written.
        """
        counts = self.splits[split]["shards"]
        if len(files) != len(counts):
            folder = os.path.dirname(files[0]) if files else f"the split {split}"
            raise DamagedFile(f"{folder} must have {len(counts)} files, got {len(files)}")
        return counts


@dataclass(frozen=True, kw_only=True)
class TokenDataset(Dataset):
    """Contents of a token Examples artifact; each record is a row of tokens.

    Attributes:
      augmentations: random crops per training image, in addition to its centre crop.
      tokens: N, tokens per row.
      codebook_size: tokens are in [0, codebook_size).
    """

    augmentations: int
    tokens: int
    codebook_size: int


class Broken(NamedTuple):
    """A skipped input."""

    key: str
    reason: str


class TooManyBroken(ValueError):
    """More inputs are broken than the run allows; the message is one line for the user."""


def check_broken(broken: Sequence[Broken], total: int, limit: float, *, count: int | None = None) -> None:
    """Raise `TooManyBroken`, naming the first few, if more than `limit` (a fraction) of `total` is broken.

    `count` is their number, if not all of them are given.
    """
    count = len(broken) if count is None else count
    if count <= limit * total:
        return
    named = ", ".join(f"{key} ({reason})" for key, reason in broken[:NAMED_IN_ERRORS])
    more = ", ..." if len(broken) > NAMED_IN_ERRORS else ""
    raise TooManyBroken(
        f"broken images must be at most {limit:.1%}, "
        f"got {count} of {total} ({count / total:.1%}): {named}{more}"
    )


def write_quarantine(uri: str, broken: Iterable[Broken]) -> None:
    """Write skipped inputs, if any, to the artifact at `uri`, one JSON object per line."""
    lines = [json.dumps(entry._asdict()) + "\n" for entry in broken]
    if lines:
        write_atomic(os.path.join(uri, QUARANTINE), "".join(lines))


def read_quarantine(uri: str) -> list[Broken]:
    """Read the skipped inputs of the artifact at `uri`."""
    path = os.path.join(uri, QUARANTINE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [Broken(**json.loads(line)) for line in file]
