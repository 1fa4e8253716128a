"""Examples to batches, in an order that depends on the seed and the step alone.

The position in the data is therefore no state to be saved: the batches from step n on can be produced at any
time, so a resumed run equals one that was never stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from serving.export import images
from serving.export.records import all_records, counted_records
from trainers.training.config import Job
from trainers.training.errors import TrainingError

Example = dict[str, tf.Tensor]

# Records in the shuffle buffer. Files are shuffled too, and hold their records in hashed order.
SHUFFLE_BUFFER = 4096


@dataclass(frozen=True)
class Split:
    """One split of an Examples artifact: its files, the records in each, class names and fingerprint."""

    files: tuple[str, ...]
    records: tuple[int, ...]
    class_names: tuple[str, ...]
    fingerprint: str


def open_split(patterns: list[str]) -> Split:
    """Open the split behind the file patterns of TFX's Trainer (`<artifact>/Split-<name>/*`)."""
    files = sorted(tf.io.gfile.glob(patterns))
    folder = os.path.dirname(patterns[0])
    with tf.io.gfile.GFile(os.path.join(os.path.dirname(folder), "dataset.json")) as file:
        dataset = json.load(file)
    name = os.path.basename(folder).removeprefix("Split-")
    if "shards" not in dataset["splits"][name]:
        raise TrainingError(
            f"{folder}: dataset.json must count the records of each file, but was written by an earlier "
            "version; run with another --output"
        )
    counted = dataset["splits"][name]["shards"]
    if len(files) != len(counted):
        raise TrainingError(f"{folder} must have {len(counted)} files, got {len(files)}")
    return Split(
        files=tuple(files),
        records=tuple(counted),
        class_names=tuple(dataset["class_names"]),
        fingerprint=dataset["fingerprint"],
    )


def parse_image(record: tf.Tensor) -> Example:
    """Parse a serialized image Example to `image_bytes` and `label` (-1 if unlabelled)."""
    fields = tf.io.parse_single_example(
        record,
        {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/label": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
        },
    )
    return {"image_bytes": fields["image/encoded"], "label": tf.cast(fields["image/label"], tf.int32)}


def token_parser(tokens: int) -> Callable[[tf.Tensor], Example]:
    """A parser of serialized token Examples to `tokens` int32 [N] and `label` (-1 if unlabelled)."""

    def parse(record: tf.Tensor) -> Example:
        fields = tf.io.parse_single_example(
            record,
            {
                "tokens": tf.io.FixedLenFeature([tokens], tf.int64),
                "image/label": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
            },
        )
        return {
            "tokens": tf.cast(fields["tokens"], tf.int32),
            "label": tf.cast(fields["image/label"], tf.int32),
        }

    return parse


def training_batches(
    split: Split,
    parse: Callable[[tf.Tensor], Example],
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    host: tf.distribute.InputContext,
    augment: Callable[[Example, tf.Tensor], Example] | None = None,
) -> tf.data.Dataset:
    """Endless shuffled batches of one host, starting with those of step `first_step` (from 0).

    Args:
      split: what is read; each host reads its own files.
      parse: a serialized record to an example.
      batch_size: of a whole step. A batch here is one replica's share; the host's replicas take turns.
      seed: of the run.
      first_step: the step to start from.
      host: this host's index and the number of hosts.
      augment: takes a parsed record and its own seed (int64 [2]), which depends on the run's seed and on the
        record's index in the streams of all hosts.

    Raises:
      TrainingError: there are fewer files than hosts, or this host's files are empty.

    Reading past the end of a file that holds another number of records fails, and names it.
    """
    hosts, this = host.num_input_pipelines, host.input_pipeline_id
    if len(split.files) < hosts:
        raise TrainingError(
            f"data.num_shards and tokens.num_shards must be at least the number of hosts {hosts}, got "
            f"{len(split.files)} files"
        )
    own_files, own_counts = split.files[this::hosts], split.records[this::hosts]
    own_records = sum(own_counts)
    if not own_records:
        raise TrainingError(
            f"files of host {this + 1} of {hosts} must hold a record, got {len(own_files)} empty files"
        )
    first_record = first_step * batch_size // hosts
    first_epoch, skipped = divmod(first_record, own_records)

    def epoch(index: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(own_files)), seed=[seed, index])
        files = tf.gather(tf.constant(own_files), order), tf.gather(tf.constant(own_counts, tf.int64), order)
        records = tf.data.Dataset.from_tensor_slices(files).interleave(
            counted_records, cycle_length=8, num_parallel_calls=2, deterministic=True
        )
        buffer = min(own_records, SHUFFLE_BUFFER)
        # Seeds this graph alone: shuffle mixes its seed with the process's, and takes no tensor beside a 0.
        tf.compat.v1.set_random_seed(seed + 1)
        return records.shuffle(buffer, seed=index * 1_000_003 + seed, reshuffle_each_iteration=False)

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    stream = epochs.flat_map(epoch).skip(skipped).enumerate(start=first_record)

    def load(index: tf.Tensor, record: tf.Tensor) -> Example:
        example = parse(record)
        place = index * hosts + this
        return augment(example, tf.stack([tf.constant(seed, tf.int64), place])) if augment else example

    return (
        stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(host.get_per_replica_batch_size(batch_size), drop_remainder=True)
        # If an end seems possible, several hosts make the batch's shape unknown.
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        .prefetch(4)
    )


def image_batches(
    split: Split,
    job: Job,
    batch_size: int,
    *,
    augment: Callable[[Example, tf.Tensor], Example] = lambda example, seed: example,
) -> Callable[[int, tf.distribute.InputContext], tf.data.Dataset]:
    """A function from a step and a host to the endless batches of randomly cropped images from that step on.

    A batch holds `pixels` float32 [B, S, S, 3] in [0, 1] and `label` int32 [B], after `augment`, which
    follows the crop.
    """

    def crop(example: Example, seed: tf.Tensor) -> Example:
        pixels = images.random_resized_crop(
            images.decode(example["image_bytes"]),
            job.image_size,
            seed,
            min_scale=job.augmentation.min_scale,
            flip=job.augmentation.flip,
        )
        return augment({"pixels": pixels, "label": example["label"]}, seed)

    def batches(first_step: int, host: tf.distribute.InputContext) -> tf.data.Dataset:
        return training_batches(
            split,
            parse_image,
            batch_size=batch_size,
            seed=job.seed,
            first_step=first_step,
            host=host,
            augment=crop,
        )

    return batches


def token_batches(
    split: Split,
    job: Job,
    batch_size: int,
    *,
    tokens: int,
    augment: Callable[[Example, tf.Tensor], Example],
) -> Callable[[int, tf.distribute.InputContext], tf.data.Dataset]:
    """A function from a step and a host to the endless batches of rows of N tokens from that step on.

    A batch holds `tokens` int32 [B, N] and `label` int32 [B], after `augment`.
    """

    def batches(first_step: int, host: tf.distribute.InputContext) -> tf.data.Dataset:
        return training_batches(
            split,
            token_parser(tokens),
            batch_size=batch_size,
            seed=job.seed,
            first_step=first_step,
            host=host,
            augment=augment,
        )

    return batches


def held_out_tokens(split: Split, *, tokens: int, limit: int) -> Example:
    """The first rows of N tokens of a split, at most `limit`, as one batch of `token_batches`."""
    return first_records(split, token_parser(tokens), limit=limit)


def held_out_images(split: Split, job: Job, *, limit: int) -> Example:
    """The first images of a split, at most `limit`, centre-cropped, as one batch of `image_batches`."""

    def load(record: tf.Tensor) -> Example:
        example = parse_image(record)
        pixels = images.center_crop(images.decode(example["image_bytes"]), job.image_size)
        return {"pixels": pixels, "label": example["label"]}

    return first_records(split, load, limit=limit)


def first_records(split: Split, parse: Callable[[tf.Tensor], Example], *, limit: int) -> Example:
    """The first records of a split in stored order, at most `limit`, as one batch in memory."""
    records = all_records(split.files, split.records).take(limit)
    return next(iter(records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(limit)))
