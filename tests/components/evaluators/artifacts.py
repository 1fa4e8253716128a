"""Make tiny artifacts for executors: flat grey images as Examples, stand-in models, empty outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from components.reference_statistics import executor as reference_statistics
from tests import stand_ins

# The brightness that the stand-in classifier expects of each class.
LEVELS = (0, 119, 238)


def artifact(kind, uri: Path, identity: int = 1):
    made = kind()
    made.uri = str(uri)
    made.id = identity
    return made


def grey(level: int, size: int = stand_ins.SIZE) -> np.ndarray:
    return np.full([size, size, 3], level, np.uint8)


def write_examples(folder: Path, splits, class_names=stand_ins.CLASSES):
    """Write Examples, two shards a split; `splits`: name -> [(uint8 image, label or None)]."""
    for split, rows in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        for shard in range(2):
            path = folder / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-00002"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for index, (image, label) in list(enumerate(rows))[shard::2]:
                    writer.write(_example(f"{split}/{index}", image, label))
    sidecar = {
        "source": "test",
        "fingerprint": "0123456789abcdef",
        "class_names": list(class_names),
        "splits": {
            split: {"records": len(rows), "shards": [len(rows[0::2]), len(rows[1::2])]}
            for split, rows in splits.items()
        },
        "broken": 0,
    }
    (folder / "dataset.json").write_text(json.dumps(sidecar))
    examples = artifact(standard_artifacts.Examples, folder)
    examples.split_names = artifact_utils.encode_split_names(list(splits))
    return examples


def write_model(folder: Path, write, identity: int = 1, **options):
    write(str(folder / "Format-Serving"), **options)
    return artifact(standard_artifacts.Model, folder, identity)


def write_reference(folder: Path, inputs, batch_size: int = 4, features: str = "classifier", beam_args=()):
    """Run ReferenceStatistics on `inputs` (`examples`, `classifier`)."""
    reference = artifact(standard_artifacts.ExampleStatistics, folder)
    folder.mkdir(parents=True)
    reference_statistics.Executor(beam_context(*beam_args)).Do(
        inputs,
        as_lists(reference=reference),
        {
            "image_size": stand_ins.SIZE,
            "batch_size": batch_size,
            "features": features,
            "features_version": "",
        },
    )
    return reference


def outputs(folder: Path):
    made = {
        "evaluation": artifact(standard_artifacts.ModelEvaluation, folder / "evaluation"),
        "blessing": artifact(standard_artifacts.ModelBlessing, folder / "blessing"),
    }
    for output in made.values():
        Path(output.uri).mkdir(parents=True)
    return made


def beam_context(*args: str):
    return base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=["--runner=FnApiRunner", *args])


def as_lists(**artifacts):
    return {name: [one] for name, one in artifacts.items()}


def _example(key: str, image: np.ndarray, label: int | None) -> bytes:
    feature = {
        "image/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[tf.io.encode_png(image).numpy()])
        ),
        "image/key": tf.train.Feature(bytes_list=tf.train.BytesList(value=[key.encode()])),
    }
    if label is not None:
        feature["image/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
