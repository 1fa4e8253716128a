"""A tiny Examples artifact for trainers: images of one grey level each, brighter for the second class."""

from __future__ import annotations

import json
from pathlib import Path

import tensorflow as tf

CLASSES = ("dark", "bright")
ALONE = tf.distribute.InputContext(num_input_pipelines=1, input_pipeline_id=0, num_replicas_in_sync=1)


def write_images(root: Path, *, records: int = 10, labelled: bool = True) -> dict[str, list[str]]:
    """Write splits `train` and `eval`; return the file patterns of each, as TFX's Trainer passes them."""
    for split in ("train", "eval"):
        rows = []
        for index in range(records):
            level = 20 + 10 * index + (100 if index % 2 else 0)
            features = {
                "image/encoded": _bytes(tf.io.encode_png(tf.fill([12, 10, 3], tf.cast(level, tf.uint8))))
            }
            if labelled:
                features["image/label"] = _ints([index % 2])
            rows.append(features)
        _write(root / f"Split-{split}", rows)
    return _sidecar(root, records, CLASSES if labelled else ())


def write_tokens(root: Path, rows: list[tuple[list[int], int]]) -> dict[str, list[str]]:
    """Write the same token rows (tokens, label) as splits `train` and `eval`; return their file patterns."""
    for split in ("train", "eval"):
        _write(
            root / f"Split-{split}",
            [{"tokens": _ints(tokens), "image/label": _ints([label])} for tokens, label in rows],
        )
    return _sidecar(root, len(rows), CLASSES)


def _sidecar(root: Path, records: int, classes: tuple[str, ...]) -> dict[str, list[str]]:
    shards = [(records + 1) // 2, records // 2]
    splits = {name: {"records": records, "shards": shards} for name in ("train", "eval")}
    (root / "dataset.json").write_text(
        json.dumps({"splits": splits, "class_names": classes, "fingerprint": "f00d"})
    )
    return {name: [str(root / f"Split-{name}" / "*")] for name in splits}


def _write(folder: Path, rows: list[dict[str, tf.train.Feature]]) -> None:
    folder.mkdir(parents=True)
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"data_tfrecord-{shard:05d}-of-00002")) as writer:
            for row in rows[shard::2]:
                writer.write(tf.train.Example(features=tf.train.Features(feature=row)).SerializeToString())


def _bytes(value: tf.Tensor) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.numpy()]))


def _ints(values: list[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
