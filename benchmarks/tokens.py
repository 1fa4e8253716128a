"""Overhead of TokenTransform over its model: `python -m benchmarks.tokens`.

The whole component, from files of encoded images to files of tokens, is timed against the same exported
tokenizer in a bare loop over pixels in memory. The machine's speed drifts, so the two alternate in one
process. The steady rate is that of the batches by which a long run exceeds a run of one batch. The times of
the latter (`start s`) and of loading the model (`load s`) are listed separately.
The images are synthetic and the weights random, as speed depends on neither.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import click
import tensorflow as tf
from apache_beam.metrics.metric import MetricsFilter
from rich.console import Console
from rich.table import Table
from tfx import types
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components.dataset import Dataset
from components.tfrecords import serialize_example
from components.token_transform.encode import LOAD
from components.token_transform.executor import Executor
from components.token_transform.tokenizer import SIGNATURE
from serving.export.metadata import Metadata
from serving.export.signatures import exportable
from serving.export.tokenizer import export_tokenizer
from tfx_pipeline.config import Config, load
from trainers.vit_vqgan.model import ViTVQGAN

SPLIT = "train"


class Size(NamedTuple):
    """A preset, and the images to encode.

    Attributes:
      preset: sets the model and the crops.
      images: images per batch, each with all its crops.
      batches: batches over which the steady rate is measured.
      height, width: of a stored image.
      encoding: PNG or JPEG.
    """

    preset: str
    images: int
    batches: int
    height: int
    width: int
    encoding: str


# `digits` and `cifar10` have their presets' batches of 256 crops.
SIZES = {
    "digits": Size("digits", images=32, batches=32, height=8, width=8, encoding="PNG"),
    "cifar10": Size("cifar10", images=128, batches=8, height=32, width=32, encoding="JPEG"),
    "small": Size("imagenet256_ss_unsupervised", images=1, batches=2, height=375, width=500, encoding="JPEG"),
}


class Seconds(NamedTuple):
    """Wall-clock time, and CPU time of all threads."""

    clock: float
    processor: float

    def __add__(self, other: Seconds) -> Seconds:  # type: ignore[override]  # no concatenation
        return Seconds(*(one + more for one, more in zip(self, other, strict=True)))

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(*(one - less for one, less in zip(self, other, strict=True)))


class Component:
    """TokenTransform and its inputs, in a folder."""

    def __init__(self, folder: Path, config: Config, size: Size, batches: int):
        self.batch_size = size.images * (1 + config.tokens.augmentations)
        self.batches = batches
        self._folder = folder
        self._config = config
        self._model = standard_artifacts.Model()
        self._model.uri = str(folder / "model")
        _write_tokenizer(path_utils.serving_model_path(self._model.uri), config)
        self._one = _write_images(folder / "one", size, size.images)
        self._more = _write_images(folder / "more", size, size.images * (1 + batches))

    def start(self) -> tuple[Seconds, float]:
        """Encode one batch; return the time without loading the model, and the seconds to load it."""
        return self._run(self._one)

    def encode(self) -> tuple[Seconds, float]:
        """Encode `batches` more batches than `start`; return the same."""
        return self._run(self._more)

    def bare_loop(self) -> Callable[[], Seconds]:
        """Return a function that times the encoding of `batches` batches of pixels in memory."""
        model = tf.saved_model.load(path_utils.serving_model_path(self._model.uri))
        side = self._config.data.image_size
        pixels = tf.random.stateless_uniform([self.batch_size, side, side, 3], seed=[0, 0])

        def loop() -> Seconds:
            begin = _now()
            for _ in range(self.batches):
                model.signatures[SIGNATURE](pixels=pixels)["tokens"].numpy()
            return _now() - begin

        loop()
        return loop

    def _run(self, images: types.Artifact) -> tuple[Seconds, float]:
        tokens = standard_artifacts.Examples()
        tokens.uri = str(self._folder / "tokens")
        config = self._config
        properties = {
            "augmentations": config.tokens.augmentations,
            "min_scale": config.data.augmentation.min_scale,
            "flip": int(config.data.augmentation.flip),
            "seed": config.seed,
            "batch_size": self.batch_size,
            "num_shards": config.tokens.num_shards,
            "max_broken": config.data.max_broken,
        }
        pipeline = beam.Pipeline(argv=["--runner=FnApiRunner"])
        executor = Executor(Executor.Context(make_beam_pipeline_fn=lambda: pipeline))
        begin = _now()
        executor.Do({"images": [images], "model": [self._model]}, {"examples": [tokens]}, properties)
        seconds = _now() - begin
        (load,) = pipeline.result.metrics().query(MetricsFilter().with_name(LOAD))["distributions"]
        load_seconds = load.committed.sum / 1000
        # Loading runs in one thread.
        return seconds - Seconds(load_seconds, load_seconds), load_seconds


@click.command()
@click.option("--only", type=click.Choice(list(SIZES)), multiple=True, help="Only this size; repeatable.")
@click.option("--repetitions", default=5, show_default=True, help="Per measurement; the median is used.")
@click.option("--quick", is_flag=True, help="Smoke test: tiny models, one repetition.")
def main(only: tuple[str, ...], repetitions: int, quick: bool) -> None:
    """Time TokenTransform relative to its tokenizer alone."""
    columns = ("batch", "rows", "bare rows/s", "rows/s", "share", "share, CPU time", "load s", "start s")
    table = Table("model", *columns)
    for name in only or SIZES:
        size = SIZES[name]
        with tempfile.TemporaryDirectory() as folder:
            batches = 2 if quick else size.batches
            component = Component(Path(folder), load(size.preset, small=quick), size, batches)
            row = _row(component, 1 if quick else repetitions)
        table.add_row(name, *row)
        click.echo(f"{name}: {row[4]} ({row[5]})", err=True)
    Console(width=110).print(table)


def _row(component: Component, repetitions: int) -> list[str]:
    bare_loop = component.bare_loop()
    component.start()
    bare, steady, starts, loads = [], [], [], []
    for _ in range(repetitions):
        before = bare_loop()
        start, load_seconds = component.start()
        whole, _ = component.encode()
        after = bare_loop()
        both = before + after
        bare.append(Seconds(both.clock / 2, both.processor / 2))
        steady.append(whole - start)
        starts.append(start.clock)
        loads.append(load_seconds)
    rows = component.batches * component.batch_size
    pairs = list(zip(bare, steady, strict=True))
    return [
        str(component.batch_size),
        str(rows),
        f"{rows / statistics.median(each.clock for each in bare):.1f}",
        f"{rows / statistics.median(each.clock for each in steady):.1f}",
        f"{statistics.median(one.clock / other.clock for one, other in pairs):.0%}",
        f"{statistics.median(one.processor / other.processor for one, other in pairs):.0%}",
        f"{statistics.median(loads):.1f}",
        f"{statistics.median(starts):.1f}",
    ]


def _now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def _write_tokenizer(directory: str, config: Config) -> None:
    model = ViTVQGAN(config.trained_stage1.model, image_size=config.data.image_size, seed=0)
    codes = config.trained_stage1.model.codebook.size
    metadata = Metadata(
        "tokenizer",
        config.name,
        config.data.image_size,
        model.tokens,
        codes,
        (),
        {"tensorflow": tf.__version__},
    )
    export_tokenizer(directory, exportable(model), metadata, encode=model.encode, decode=model.decode)


def _write_images(folder: Path, size: Size, count: int) -> types.Artifact:
    """Write an Examples artifact of one split and one file."""
    (folder / f"Split-{SPLIT}").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / f"Split-{SPLIT}" / "data_tfrecord-00000-of-00001")) as writer:
        for index in range(count):
            encoded = _picture(size, index)
            writer.write(
                serialize_example(
                    {"image/key": f"{index}".encode(), "image/encoded": encoded, "image/label": [0]}
                )
            )
    Dataset(
        source="random",
        fingerprint="0" * 16,
        class_names=("one",),
        splits={SPLIT: {"records": count, "shards": [count]}},
    ).write(str(folder))
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    artifact.split_names = artifact_utils.encode_split_names([SPLIT])
    return artifact


def _picture(size: Size, index: int) -> bytes:
    """Encode smooth noise, which compresses about as well as a photograph."""
    noise = tf.random.stateless_uniform([1 + size.height // 4, 1 + size.width // 4, 3], seed=[0, index])
    pixels = tf.cast(255 * tf.image.resize(noise, [size.height, size.width], "bicubic"), tf.int32)
    pixels = tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)
    encode = {"PNG": tf.io.encode_png, "JPEG": tf.io.encode_jpeg}[size.encoding]
    return encode(pixels).numpy()


if __name__ == "__main__":
    main()
