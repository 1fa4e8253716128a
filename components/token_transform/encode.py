"""Image records to token records, a file at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from components.dataset import Broken
from components.tfrecords import BROKEN, Item, order_of, read_records, serialize_example
from components.token_transform.tokenizer import Row, Tokenizer, decodable

NAMESPACE = "TokenTransform"  # of the Beam counters


class EncodeFiles(beam.DoFn):
    """(split, image file) -> `Item`s of serialized rows of tokens, and `Broken` beside them.

    A file is the unit of work and batches follow its order, so that an image meets the same
    neighbours in the model, hence gets the same tokens, however many workers there are.
    """

    def __init__(
        self, model: str, *, augmentations: int, min_scale: float, flip: bool, seed: int, batch_size: int
    ):
        super().__init__()
        self._load = partial(
            Tokenizer, model, batch_size=batch_size, min_scale=min_scale, flip=flip, seed=seed
        )
        self._augmentations = augmentations
        self._batch_size = batch_size
        self._shared = Shared()

    def process(self, file: tuple[str, str]) -> Iterator[Any]:
        """Encodes all variants of all images of one file."""
        # Not in `setup`, whose counters Beam drops. A process without files loads nothing this way.
        self._tokenizer: Tokenizer = self._shared.acquire(self._timed_load)
        split, path = file
        variants = range(1 + (self._augmentations if split == "train" else 0))
        rows = (
            Row(key, label, variant, image_bytes)
            for key, label, image_bytes in map(_parse, read_records(path))
            for variant in variants
        )
        while batch := list(islice(rows, self._batch_size)):
            try:
                pixels = self._tokenizer.crop(batch)
            except tf.errors.InvalidArgumentError:
                batch, broken = _sort_out(batch)
                Metrics.counter(NAMESPACE, "skipped").inc(len(broken))
                yield from (beam.pvalue.TaggedOutput(BROKEN, each) for each in broken)
                if not batch:
                    continue
                pixels = self._tokenizer.crop(batch)
            begin = time.monotonic()
            tokens = self._tokenizer.encode(pixels)
            Metrics.counter(NAMESPACE, "model_milliseconds").inc(_milliseconds_since(begin))
            Metrics.counter(NAMESPACE, "images").inc(sum(row.variant == 0 for row in batch))
            for row, row_tokens in zip(batch, tokens, strict=True):
                record = _serialize(row, row_tokens)
                key = f"{row.key}/{row.variant}"
                yield Item(split, key, order_of(key, record), record)

    def _timed_load(self) -> Tokenizer:
        begin = time.monotonic()
        tokenizer = self._load()
        Metrics.distribution(NAMESPACE, "load_milliseconds").update(_milliseconds_since(begin))
        return tokenizer


def release_model() -> None:
    """Frees the model of a pipeline that ran in this process.

    `Shared` holds on to its last object until it gets another: the memory would stay taken for all
    components that follow.
    """
    Shared().acquire(set)


def _milliseconds_since(begin: float) -> int:
    return round(1000 * (time.monotonic() - begin))


def _parse(record: bytes) -> tuple[str, int | None, bytes]:
    """An image tf.Example's key, label and image bytes."""
    feature = tf.train.Example.FromString(record).features.feature
    label = feature["image/label"].int64_list.value[0] if "image/label" in feature else None
    key, image_bytes = (feature[name].bytes_list.value[0] for name in ("image/key", "image/encoded"))
    return key.decode(), label, image_bytes


def _sort_out(batch: Sequence[Row]) -> tuple[list[Row], list[Broken]]:
    """The rows whose image can be decoded, and the images for which that is not so."""
    good = [row for row in batch if decodable(row.image_bytes)]
    keys = {row.key for row in good}
    # An image has many rows, and one of variant 0.
    broken = [
        Broken(row.key, "cannot be decoded") for row in batch if row.key not in keys and row.variant == 0
    ]
    return good, broken


def _serialize(row: Row, tokens: np.ndarray) -> bytes:
    features: dict[str, bytes | Sequence[int]] = {
        "tokens": tokens.tolist(),
        "image/key": row.key.encode(),
        "augmentation": [row.variant],
    }
    if row.label is not None:
        features["image/label"] = [row.label]
    return serialize_example(features)
