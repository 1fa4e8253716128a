"""Encoding of image records to token records, one file at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from components.dataset import Broken
from components.tfrecords import BROKEN, Item, order_of, read_records
from components.token_transform.tokenizer import Row, Tokenizer, decodable

NAMESPACE = "TokenTransform"  # of the Beam counters
LOAD = "load_milliseconds"  # a distribution: its count is how often a model was loaded
METADATA = "metadata"


class EncodeFiles(beam.DoFn):
    """(split, image file) -> one list of `Item`s per batch; each item is a serialized row of tokens.

    Tagged outputs: `Broken` for each image that cannot be decoded, and the model's `Metadata`, once per
    file.

    A file is the unit of work, and batches follow its order. So an image is in the same batch, and gets
    the same tokens, whatever the number of workers.
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

    def process(self, file: tuple[str, str, int]) -> Iterator[Any]:
        """Encode all variants of all images of one file: its split, path and number of records."""
        # Not in `setup`, whose counters Beam drops. Also, a process without files loads no model.
        tokenizer: Tokenizer = self._shared.acquire(self._timed_load)
        yield beam.pvalue.TaggedOutput(METADATA, tokenizer.metadata)
        split, path, records = file
        variants = range(1 + (self._augmentations if split == "train" else 0))
        rows = (
            Row(key, label, variant, image_bytes)
            for key, label, image_bytes in map(_parse, read_records(path, records))
            for variant in variants
        )
        # The model runs in its own thread: images are decoded and rows written at the same time.
        with ThreadPoolExecutor(1) as model:
            under_way: list[tuple[list[Row], Future[tuple[np.ndarray, int]]]] = []
            while batch := list(islice(rows, self._batch_size)):
                batch, broken, pixels = _crop(tokenizer, batch)
                yield from (beam.pvalue.TaggedOutput(BROKEN, each) for each in broken)
                if batch:
                    under_way.append((batch, model.submit(_timed_encode, tokenizer, pixels)))
                if len(under_way) == 2:
                    yield _items(split, *under_way.pop(0))
            for each in under_way:
                yield _items(split, *each)

    def _timed_load(self) -> Tokenizer:
        begin = time.monotonic()
        tokenizer = self._load()
        Metrics.distribution(NAMESPACE, LOAD).update(_milliseconds_since(begin))
        return tokenizer


def _milliseconds_since(begin: float) -> int:
    return round(1000 * (time.monotonic() - begin))


def _parse(record: bytes) -> tuple[str, int | None, bytes]:
    """An image tf.Example's key, label and image bytes."""
    feature = tf.train.Example.FromString(record).features.feature
    label = feature["image/label"].int64_list.value[0] if "image/label" in feature else None
    key, image_bytes = (feature[name].bytes_list.value[0] for name in ("image/key", "image/encoded"))
    return key.decode(), label, image_bytes


def _crop(tokenizer: Tokenizer, batch: list[Row]) -> tuple[list[Row], list[Broken], tf.Tensor | None]:
    """Crop a batch: (decodable rows, broken images, pixels of the decodable rows)."""
    try:
        return batch, [], tokenizer.crop(batch)
    except tf.errors.InvalidArgumentError:
        good, broken = _sort_out(batch)
        Metrics.counter(NAMESPACE, "skipped").inc(len(broken))
        return good, broken, tokenizer.crop(good) if good else None


def _timed_encode(tokenizer: Tokenizer, pixels: tf.Tensor) -> tuple[np.ndarray, int]:
    """Encode: (tokens, milliseconds). The caller counts them, as Beam's counters need one of its threads."""
    begin = time.monotonic()
    return tokenizer.encode(pixels), _milliseconds_since(begin)


def _items(split: str, batch: list[Row], encoded: Future[tuple[np.ndarray, int]]) -> list[Item]:
    tokens, milliseconds = encoded.result()
    Metrics.counter(NAMESPACE, "model_milliseconds").inc(milliseconds)
    Metrics.counter(NAMESPACE, "images").inc(sum(row.variant == 0 for row in batch))
    keys = (f"{row.key}/{row.variant}" for row in batch)
    records = _records(batch, tokens)
    return [
        Item(split, key, order_of(key, record), record) for key, record in zip(keys, records, strict=True)
    ]


def _records(batch: Sequence[Row], tokens: np.ndarray) -> Iterator[bytes]:
    """The tf.Example of each row."""
    # One message for all rows: creating one takes twice as long as filling and serializing it.
    example = tf.train.Example()
    feature = example.features.feature
    for row, row_tokens in zip(batch, tokens.tolist(), strict=True):
        feature["tokens"].int64_list.value[:] = row_tokens
        feature["image/key"].bytes_list.value[:] = [row.key.encode()]
        feature["augmentation"].int64_list.value[:] = [row.variant]
        if row.label is None:
            feature.pop("image/label", None)
        else:
            feature["image/label"].int64_list.value[:] = [row.label]
        yield example.SerializeToString(deterministic=True)


def _sort_out(batch: Sequence[Row]) -> tuple[list[Row], list[Broken]]:
    """Separate a batch into decodable rows and broken images."""
    # Per row, because two images may have the same key.
    whole = [decodable(row.image_bytes) for row in batch]
    good = [row for row, is_whole in zip(batch, whole, strict=True) if is_whole]
    # One entry per image: of its rows, exactly one is variant 0.
    broken = [
        Broken(row.key, "cannot be decoded")
        for row, is_whole in zip(batch, whole, strict=True)
        if not is_whole and row.variant == 0
    ]
    return good, broken
