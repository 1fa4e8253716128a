import itertools

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from components.dataset import Broken
from components.tfrecords import (
    BrokenRecord,
    DamagedFile,
    Item,
    Shard,
    WriteShards,
    count_records,
    fingerprint,
    order_of,
    read_records,
    serialize_example,
)

KEYS = [f"image/{index}" for index in range(20)]


def serialize(content):
    if content == "bad":
        raise BrokenRecord("is bad")
    return content.encode()


def write(directory, items, num_shards=2, broken=()):
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        written = (
            pipeline
            | beam.Create([items[:3], items[3:]])
            | WriteShards(str(directory), ["train", "eval"], num_shards, serialize)
        )
        assert_that(written.broken, equal_to(list(broken)))
    return {
        str(path.relative_to(directory)): [record.decode() for record in read_records(str(path))]
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def items(keys=KEYS, split="train"):
    return [Item(split, key, order_of(key), key) for key in keys]


def test_each_record_is_in_one_shard_sorted_by_hash(tmp_path):
    files = write(tmp_path, items())
    assert list(files) == [
        f"Split-{split}/data_tfrecord-0000{shard}-of-00002" for split in ("eval", "train") for shard in (0, 1)
    ]
    train = [files[f"Split-train/data_tfrecord-0000{shard}-of-00002"] for shard in (0, 1)]
    assert sorted(itertools.chain(*train)) == sorted(KEYS)
    for records in train:
        assert records == sorted(records, key=order_of)
        assert len(records) > 3  # both shards are used


def test_output_does_not_depend_on_input_order(tmp_path):
    assert write(tmp_path / "a", items()) == write(tmp_path / "b", items()[::-1])


def test_equal_keys_are_ordered_by_tie_breaker(tmp_path):
    twins = [Item("train", "k", order_of("k", name.encode()), name) for name in ("x", "y", "z")]
    assert write(tmp_path / "a", twins, 1) == write(tmp_path / "b", twins[::-1], 1)


def test_unserializable_item_is_skipped_and_reported(tmp_path):
    bad = Item("train", "the bad one", order_of("b"), "bad")
    files = write(tmp_path, [*items(KEYS[:3]), bad], 1, broken=[Broken("the bad one", "is bad")])
    assert sorted(files["Split-train/data_tfrecord-00000-of-00001"]) == KEYS[:3]


def test_fingerprint_depends_on_shards_but_not_their_order():
    one, two = Shard("train", 0, 3, "aa"), Shard("train", 1, 4, "bb")
    assert fingerprint([one, two]) == fingerprint([two, one])
    assert fingerprint([one, two]) != fingerprint([one, two._replace(digest="bc")])


def test_records_are_counted_per_split_and_shard():
    shards = [Shard("train", 1, 4, "bb"), Shard("eval", 0, 2, "cc"), Shard("train", 0, 3, "aa")]
    assert count_records(shards, ["train", "eval"]) == {
        "train": {"records": 7, "shards": [3, 4]},
        "eval": {"records": 2, "shards": [2]},
    }


def test_serialized_example_round_trips():
    example = tf.train.Example.FromString(serialize_example({"name": b"a", "values": [1, 2]}))
    assert example.features.feature["name"].bytes_list.value == [b"a"]
    assert example.features.feature["values"].int64_list.value == [1, 2]


def test_damaged_file_is_named_in_the_error(tmp_path):
    path = tmp_path / "some.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in (b"first", b"second"):
            writer.write(content)
    damaged = bytearray(path.read_bytes())
    damaged[-6] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedFile, match=r"some\.tfrecord is damaged: .*corrupted record"):
        list(read_records(str(path)))
