"""Run TokenTransform on tiny images with a stand-in tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult
from tfx import types
from tfx.types import artifact_utils, standard_artifacts

from components.dataset import Dataset
from components.tfrecords import read_records, serialize_example
from components.token_transform.encode import NAMESPACE
from components.token_transform.executor import Executor
from tests import stand_ins
from tests.components.image_example_gen import pictures

TRAIN, EVAL = 10, 3
IN_PROCESS = ("--runner=FnApiRunner",)


def write_model(uri: str) -> types.Artifact:
    artifact = standard_artifacts.Model()
    artifact.uri = uri
    stand_ins.write_tokenizer(f"{uri}/Format-Serving")
    return artifact


def write_images(
    uri: Path, damaged: Collection[str] = (), labelled: bool = True, train: int = TRAIN, shards: int = 2
) -> types.Artifact:
    """Write images as Examples; image i of a split has brightness 20 i mod 256 and label i mod 3."""
    counts = {"train": train, "eval": EVAL}
    for split, count in counts.items():
        (uri / f"Split-{split}").mkdir(parents=True)
        for shard in range(shards):
            path = uri / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-{shards:05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for index in range(shard, count, shards):
                    key = f"{split}/{index}"
                    content = pictures.encoded(20 * index % 256, size=(16, 10))
                    features: dict[str, bytes | Sequence[int]] = {
                        "image/key": key.encode(),
                        "image/encoded": content[:-30] if key in damaged else content,
                    }
                    if labelled:
                        features["image/label"] = [index % 3]
                    writer.write(serialize_example(features))
    Dataset(
        source="test",
        fingerprint="0123456789abcdef",
        class_names=stand_ins.CLASSES if labelled else (),
        splits={
            split: {"records": count, "shards": [len(range(n, count, shards)) for n in range(shards)]}
            for split, count in counts.items()
        },
    ).write(str(uri))
    artifact = standard_artifacts.Examples()
    artifact.uri = str(uri)
    artifact.split_names = artifact_utils.encode_split_names(["train", "eval"])
    return artifact


def run(
    uri: Path, images: types.Artifact, model: types.Artifact, flags: Sequence[str] = IN_PROCESS, **properties
) -> tuple[types.Artifact, PipelineResult]:
    """Run the executor; return the token artifact and Beam's result."""
    examples = standard_artifacts.Examples()
    examples.uri = str(uri)
    # Passing `beam_pipeline_args` instead would make TFX build a package of itself for remote workers.
    pipeline = beam.Pipeline(argv=list(flags))
    context = Executor.Context(make_beam_pipeline_fn=lambda: pipeline)
    defaults = {
        "augmentations": 2,
        "min_scale": 0.5,
        "flip": 1,
        "seed": 0,
        "batch_size": 4,
        "num_shards": 1,
        "max_broken": 0.01,
    }
    Executor(context).Do(
        {"images": [images], "model": [model]}, {"examples": [examples]}, {**defaults, **properties}
    )
    return examples, pipeline.result


def counters(result: PipelineResult) -> dict[str, int]:
    """Return counters by name; for `load_milliseconds`, a distribution, the number of its updates."""
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counted = {each.key.metric.name: each.committed for each in found["counters"]}
    return counted | {each.key.metric.name: each.committed.count for each in found["distributions"]}


def rows(examples: types.Artifact, split: str) -> list:
    """Return the features of all rows of a split, in the order of the files."""
    return [
        tf.train.Example.FromString(record).features.feature
        for path in sorted(Path(examples.uri).glob(f"Split-{split}/*"))
        for record in read_records(str(path))
    ]


def files(examples: types.Artifact) -> dict[str, bytes]:
    """Return the content of every file, by its path in the artifact."""
    paths = Path(examples.uri).rglob("*")
    return {str(path.relative_to(examples.uri)): path.read_bytes() for path in paths if path.is_file()}
