"""Real images as evaluators compare with them: features, thumbnails, and the moments of a split.

An artifact holds `reference.json`; for each split `SPLIT.npz`, its moments as ADM's evaluator and
`tfx-vim evaluate` read them (`components.evaluators.moments_file`); and TFRecords in `Split-SPLIT`, one a
file of images; their records are batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx.types import Artifact, artifact_utils

from components.evaluators import examples, files
from components.evaluators.features import Features
from components.tfrecords import read_records, serialize_example
from serving.export.records import DamagedFile

REFERENCE_FILE = "reference.json"
SPLITS = ("train", "eval")
# The side of thumbnails, or that of the images if it is smaller.
PIXELS = 32


class RealImages(NamedTuple):
    """B images of a split."""

    places: np.ndarray  # int64 [B], in the split
    features: Features  # of the feature network, without probabilities
    thumbnails: np.ndarray  # uint8 [B, P, P, 3]


def read_reference(artifact: list[Artifact]) -> dict[str, Any]:
    """The description of an artifact: the network, `counts` of splits and their `files`, `accuracy`."""
    return files.read_json(os.path.join(artifact_utils.get_single_uri(artifact), REFERENCE_FILE))


def moments_path(uri: str, split: str) -> str:
    """The file of the moments of the features of a whole split."""
    return os.path.join(uri, f"{split}.npz")


def shard_path(uri: str, split: str, number: int, count: int) -> str:
    """The file of the features of the images in file `number` of `count`."""
    return os.path.join(uri, f"Split-{split}", f"data_tfrecord-{number:05d}-of-{count:05d}")


class ReadReal(beam.PTransform):
    """One split as `RealImages`; its files are distributed over workers."""

    def __init__(self, artifact: list[Artifact], split: str):
        super().__init__()
        files, counts = examples.split_files(artifact, split), read_reference(artifact)["files"][split]
        self._files = list(zip(files, counts, strict=True))

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[RealImages]:
        """Read."""
        return pipeline | beam.Create(self._files) | beam.Reshuffle() | beam.FlatMapTuple(read_shard)


def serialize(images: RealImages) -> bytes:
    """One record."""
    vectors, thumbnails = images.features.features, images.thumbnails
    return serialize_example(
        {
            "places": images.places.tolist(),
            "features": vectors.astype("<f4").tobytes(),
            "thumbnails": thumbnails.tobytes(),
        }
    )


def read_shard(path: str, count: int) -> Iterator[RealImages]:
    """The images of one file, of which there are `count`.

    Raises:
      DamagedFile: it does not hold what it must.
    """
    found = 0
    for record in read_records(path):
        feature = tf.train.Example.FromString(record).features.feature
        places = np.array(feature["places"].int64_list.value, np.int64)
        found += len(places)
        vectors = np.frombuffer(feature["features"].bytes_list.value[0], "<f4").reshape(len(places), -1)
        pixels = np.frombuffer(feature["thumbnails"].bytes_list.value[0], np.uint8)
        side = round((pixels.size / len(places) / 3) ** 0.5)
        yield RealImages(
            places,
            Features(vectors, np.zeros((len(places), 0), np.float32)),
            pixels.reshape(len(places), side, side, 3),
        )
    if found != count:
        raise DamagedFile(f"{path} must have {count} images, got {found}")


def thumbnails(levels: np.ndarray) -> np.ndarray:
    """Images uint8 [B, S, S, 3] at `PIXELS` a side or their own size, uint8 [B, P, P, 3]."""
    side = min(PIXELS, levels.shape[1])
    if levels.shape[1] == side:
        return levels
    return np.rint(tf.image.resize(tf.constant(levels), (side, side), method="area").numpy()).astype(np.uint8)
