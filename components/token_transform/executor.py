"""TokenTransform's executor: reads, crops, encodes and writes images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components import saved_model
from components.dataset import (
    Broken,
    Dataset,
    TokenDataset,
    check_broken,
    read_quarantine,
    write_quarantine,
)
from components.examples_artifact import describe_artifact
from components.tfrecords import (
    BROKEN,
    Shard,
    WriteShards,
    count_records,
    fingerprint,
)
from components.token_transform.encode import METADATA, EncodeFiles
from serving.export.atomic import atomic_folder
from serving.export.metadata import Metadata


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of TokenTransform."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Encode the input `images` with the input `model` into the output `examples`.

        Raises:
          TooManyBroken: more than `max_broken` of the images cannot be decoded.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        images = artifact_utils.get_single_instance(input_dict["images"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        splits = artifact_utils.decode_split_names(images.split_names)
        dataset = Dataset.read(images.uri)
        options = dict(exec_properties)
        max_broken = options.pop("max_broken")
        with atomic_folder(examples.uri):
            try:
                with self._make_beam_pipeline() as pipeline:
                    _encode_examples(
                        pipeline,
                        files=[file for split in splits for file in _files(images, split, dataset)],
                        uri=examples.uri,
                        model=path_utils.serving_model_path(model.uri),
                        dataset=dataset,
                        splits=splits,
                        **options,
                    )
            finally:
                saved_model.release()
            check_broken(
                read_quarantine(examples.uri), sum(dataset.records(split) for split in splits), max_broken
            )
        describe_artifact(examples, splits)


def _files(examples: types.Artifact, split: str, dataset: Dataset) -> list[tuple[str, str, int]]:
    """The files of a split, in order: split, path, number of records."""
    files = sorted(tf.io.gfile.glob(f"{artifact_utils.get_split_uri([examples], split)}/*"))
    counts = dataset.records_in(split, files)
    return [(split, file, count) for file, count in zip(files, counts, strict=True)]


def _encode_examples(
    pipeline: beam.Pipeline,
    *,
    files: Sequence[tuple[str, str, int]],
    uri: str,
    model: str,
    dataset: Dataset,
    splits: Sequence[str],
    augmentations: int,
    min_scale: float,
    flip: int,
    seed: int,
    batch_size: int,
    num_shards: int,
) -> None:
    encode = EncodeFiles(
        model,
        augmentations=augmentations,
        min_scale=min_scale,
        flip=bool(flip),
        seed=seed,
        batch_size=batch_size,
    )
    encoded = (
        pipeline
        | "Files" >> beam.Create(files)
        | beam.Reshuffle()
        | "Encode" >> beam.ParDo(encode).with_outputs(BROKEN, METADATA, main="rows")
    )
    written = encoded.rows | "Write shards" >> WriteShards(uri, splits, num_shards, bytes)
    _ = (
        pipeline
        | "Uri" >> beam.Create([uri])
        | "Write sidecars"
        >> beam.Map(
            _write_sidecars,
            images=dataset,
            augmentations=augmentations,
            metadata=beam.pvalue.AsIter(encoded[METADATA]),
            splits=splits,
            shards=beam.pvalue.AsList(written.shards),
            broken=beam.pvalue.AsList(encoded[BROKEN]),
        )
    )


def _write_sidecars(
    uri: str,
    *,
    images: Dataset,
    augmentations: int,
    metadata: Iterable[Metadata],
    splits: Sequence[str],
    shards: list[Shard],
    broken: list[Broken],
) -> None:
    write_quarantine(uri, sorted(broken))
    model = next(iter(metadata))
    TokenDataset(
        source=images.source,
        fingerprint=fingerprint(shards),
        class_names=images.class_names,
        splits=count_records(shards, splits),
        broken=len(broken),
        augmentations=augmentations,
        tokens=model.tokens,
        codebook_size=model.codebook_size,
    ).write(uri)
