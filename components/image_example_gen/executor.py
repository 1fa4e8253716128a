"""ImageExampleGen's executor: finds, splits, verifies and writes images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.dataset import Broken, Dataset, check_broken, read_quarantine, write_quarantine
from components.examples_artifact import describe_artifact
from components.image_example_gen import classes
from components.image_example_gen.images import Image, serialize, split_of_image
from components.image_example_gen.source_kinds import SourceOptions
from components.image_example_gen.sources import Source, SourceError, open_source
from components.image_example_gen.splits import SPLITS
from components.tfrecords import (
    BrokenRecord,
    Item,
    Shard,
    WriteShards,
    count_records,
    fingerprint,
    order_of,
)
from serving.export.atomic import atomic_folder


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageExampleGen."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Read the source and write the output `examples`.

        Raises:
          SourceError: the source cannot be read, leaves a split empty, has labels for only some of its
            images, or its classes are not as they should be (`classes.problems`).
          TooManyBroken: more than `max_broken` of its images are broken.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        name = exec_properties["source"]
        source = open_source(name, SourceOptions(**json.loads(exec_properties["options"])))
        with atomic_folder(examples.uri):
            with self._make_beam_pipeline() as pipeline:
                _write_examples(
                    pipeline,
                    examples.uri,
                    name,
                    source,
                    json.loads(exec_properties["splits"]),
                    exec_properties["num_shards"],
                    exec_properties["ground"],
                    json.loads(exec_properties["allow"]),
                )
            _check(examples.uri, exec_properties["max_broken"])
        describe_artifact(examples, SPLITS)


def _write_examples(
    pipeline: beam.Pipeline,
    uri: str,
    name: str,
    source: Source,
    shares: Mapping[str, int],
    num_shards: int,
    ground: str,
    allow: list[str],
) -> None:
    images = pipeline | "Find images" >> source.images()
    written = (
        images
        | "Split" >> beam.Map(_items, shares)
        | "Write shards" >> WriteShards(uri, SPLITS, num_shards, partial(_serialize, ground=ground))
    )
    labels = images | "Labels" >> beam.Map(_label, shares) | beam.combiners.Count.PerElement()
    _ = (
        pipeline
        | beam.Create([uri])
        | "Write sidecars"
        >> beam.Map(
            _write_sidecars,
            source=name,
            class_names=source.class_names,
            notes=source.notes,
            labels=beam.pvalue.AsList(labels),
            shards=beam.pvalue.AsList(written.shards),
            broken=beam.pvalue.AsList(written.broken),
            allow=allow,
        )
    )


def _items(image: Image, shares: Mapping[str, int]) -> list[Item]:
    split = split_of_image(image, shares)
    return [Item(split, image.key, order_of(image.key, image.content), image)]


def _label(image: Image, shares: Mapping[str, int]) -> tuple[str, int, str]:
    """(split, label, name of the class)."""
    split = split_of_image(image, shares)
    return (split, classes.UNLABELLED, "") if image.label is None else (split, image.label, image.class_name)


def _serialize(image: Image, ground: str) -> bytes:
    try:
        record = serialize(image, ground)
    except BrokenRecord:
        Metrics.counter("ImageExampleGen", "broken").inc()
        raise
    Metrics.counter("ImageExampleGen", "images").inc()
    return record


def _write_sidecars(
    uri: str,
    *,
    source: str,
    class_names: tuple[str, ...],
    notes: tuple[str, ...],
    labels: list[tuple[tuple[str, int, str], int]],
    shards: list[Shard],
    broken: list[Broken],
    allow: list[str],
) -> None:
    judged = classes.judge(class_names, dict(labels), allow)
    if judged.problems:
        raise SourceError(f"{source}: {'; '.join(judged.problems)}")
    write_quarantine(uri, sorted(broken))
    Dataset(
        source=source,
        fingerprint=fingerprint(shards),
        class_names=judged.names,
        notes=(*notes, *judged.notes),
        splits=count_records(shards, SPLITS),
        broken=len(broken),
    ).write(uri)


def _check(uri: str, max_broken: float) -> None:
    dataset = Dataset.read(uri)
    counts = {split: dataset.records(split) for split in SPLITS}
    check_broken(read_quarantine(uri), sum(counts.values()) + dataset.broken, max_broken)
    for split, count in counts.items():
        if not count:
            raise SourceError(f"split {split} of {dataset.source} must have an image, got {counts}")
