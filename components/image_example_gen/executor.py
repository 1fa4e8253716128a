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
from components.image_example_gen.images import Image, serialize
from components.image_example_gen.sources import Source, SourceError, open_source
from components.image_example_gen.splits import SPLITS, split_of
from components.tfrecords import (
    BrokenRecord,
    Item,
    Shard,
    WriteShards,
    count_records,
    describe_artifact,
    fingerprint,
    order_of,
)
from serving.export.atomic import atomic_folder

UNLABELLED = -1


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
          SourceError: the source cannot be read, leaves a split empty, or has labels for only some of its
            images.
          TooManyBroken: more than `max_broken` of its images are broken.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        name = exec_properties["source"]
        source = open_source(name, exec_properties.get("tfds_data_dir"))
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
) -> None:
    images = pipeline | "Find images" >> source.images()
    written = (
        images
        | "Split" >> beam.Map(_items, shares)
        | "Write shards" >> WriteShards(uri, SPLITS, num_shards, partial(_serialize, ground=ground))
    )
    labels = images | "Labels" >> beam.Map(_label) | beam.Distinct()
    _ = (
        pipeline
        | beam.Create([uri])
        | "Write sidecars"
        >> beam.Map(
            _write_sidecars,
            source=name,
            class_names=source.class_names,
            labels=beam.pvalue.AsList(labels),
            shards=beam.pvalue.AsList(written.shards),
            broken=beam.pvalue.AsList(written.broken),
        )
    )


def _items(image: Image, shares: Mapping[str, int]) -> list[Item]:
    split = image.split or split_of(image.key, shares)
    return [Item(split, image.key, order_of(image.key, image.content), image)]


def _label(image: Image) -> tuple[int, str]:
    return (UNLABELLED, "") if image.label is None else (image.label, image.class_name)


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
    labels: list[tuple[int, str]],
    shards: list[Shard],
    broken: list[Broken],
) -> None:
    seen = dict(sorted(labels))
    if seen.pop(UNLABELLED, None) is not None and seen:
        raise SourceError(f"{source} must have labels for all of its images or for none, got labels for some")
    named = tuple(seen.get(label, str(label)) for label in range(max(seen, default=-1) + 1))
    write_quarantine(uri, sorted(broken))
    Dataset(
        source=source,
        fingerprint=fingerprint(shards),
        class_names=class_names or named,
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
