"""Shards of a sampled set: each is whole or absent, so that a killed run goes on at the next one."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared
from rich.console import Console

from components.image_sampler.drawer import Drawer
from components.sampled_set import SamplingPlan
from components.tfrecords import read_records, serialize_example
from serving.export.atomic import atomic_path, remove
from serving.export.records import DamagedFile

SECONDS_BETWEEN_LINES = 30.0


class Shards(NamedTuple):
    """The files of a set that is being drawn.

    Attributes:
      folder: where they are.
      title: of the set, for lines of progress.
      counts: how many images each has.
    """

    folder: str
    title: str
    counts: tuple[int, ...]

    def path(self, number: int) -> str:
        """The file of a shard."""
        return os.path.join(self.folder, f"data_tfrecord-{number:05d}-of-{len(self.counts):05d}")

    def missing(self) -> list[int]:
        """The shards that are yet to be drawn; removes damaged files."""
        return [number for number in range(len(self.counts)) if not self._is_whole(number)]

    def done(self) -> int:
        """How many images whole shards have, by the names of their files."""
        present = set(tf.io.gfile.listdir(self.folder)) if tf.io.gfile.isdir(self.folder) else set()
        names = (os.path.basename(self.path(number)) for number in range(len(self.counts)))
        return sum(count for name, count in zip(names, self.counts, strict=True) if name in present)

    def _is_whole(self, number: int) -> bool:
        path = self.path(number)
        if not tf.io.gfile.exists(path):
            return False
        try:
            for _ in read_records(path, self.counts[number]):
                pass
        except DamagedFile:
            remove(path)
            return False
        return True


class DrawShards(beam.DoFn):
    """Number of a shard -> its number of images, once its file is written.

    Counters, in the namespace `ImageSampler`: `images`, `draw_milliseconds`.
    """

    def __init__(
        self,
        model: str,
        program: str,
        plan: SamplingPlan,
        shards: Shards,
        *,
        shard_size: int,
        batch_size: int,
    ):
        super().__init__()
        self._load = functools.partial(Drawer, model, program, plan, batch_size)
        self._plan = plan
        self._shards = shards
        self._shard_size = shard_size
        self._batch_size = batch_size
        self._shared = Shared()

    def setup(self) -> None:
        """Start the clock of this worker."""
        self._progress = _Progress(self._shards)

    def process(self, shard: int) -> Iterator[int]:
        """Draw one shard."""
        drawer: Drawer = self._shared.acquire(self._load)
        places = shard * self._shard_size + np.arange(self._shards.counts[shard])
        numbers = self._plan.indices(places)
        with atomic_path(self._shards.path(shard)) as draft, tf.io.TFRecordWriter(draft) as writer:
            for start in range(0, len(numbers), self._batch_size):
                begin = time.monotonic()
                batch = numbers[start : start + self._batch_size]
                for record in self._records(batch, *drawer(batch)):
                    writer.write(record)
                Metrics.counter("ImageSampler", "images").inc(len(batch))
                Metrics.counter("ImageSampler", "draw_milliseconds").inc(
                    round(1000 * (time.monotonic() - begin))
                )
                self._progress.drawn(len(batch))
        yield len(numbers)

    def _records(self, numbers: np.ndarray, tokens: np.ndarray, pngs: Sequence[bytes]) -> Iterator[bytes]:
        plan = self._plan
        rows = (numbers, plan.class_ids(numbers), plan.row_seeds(numbers), tokens, pngs)
        for number, class_id, seed, row, png in zip(*rows, strict=True):
            features: dict[str, bytes | Sequence[int]] = {
                "image/encoded": png,
                "image/key": f"{number:08d}".encode(),
                "image/number": [int(number)],
                "image/seed": [int(seed)],
                "tokens": row.tolist(),
            }
            if plan.classes:
                features["image/label"] = [int(class_id)]
            yield serialize_example(features)


class _Progress:
    """Lines with rate and time left, of all workers as far as their whole shards tell."""

    def __init__(self, shards: Shards):
        self._shards = shards
        self._total = sum(shards.counts)
        self._before = shards.done()
        self._own = 0
        self._started = self._last_line = time.monotonic()
        self._console = Console(stderr=True)

    def drawn(self, images: int) -> None:
        """Count images of this worker, and print a line if the last one is old."""
        self._own += images
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        done = max(self._shards.done(), self._before + self._own)
        rate = (done - self._before) / (now - self._started)
        self._console.print(
            f"{self._shards.title}: {done:,} of {self._total:,} images, {rate:.1f} images/s, "
            f"{(self._total - done) / rate:.0f} s left",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
