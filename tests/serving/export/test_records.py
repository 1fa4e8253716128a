import os
import struct
from pathlib import Path

import pytest
import tensorflow as tf

from serving.export.records import DamagedFile, all_records, counted_records, naming_damage
from serving.wire.errors import one_line


def write(path, *records: str) -> str:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record.encode())
    return str(path)


def cut_after(path, records: int) -> None:
    """Cut a file at a record's edge, as a full disk or an incomplete copy does."""
    content = Path(path).read_bytes()
    end = 0
    for _ in range(records):
        (length,) = struct.unpack("<Q", content[end : end + 8])
        end += 8 + 4 + length + 4
    os.truncate(path, end)


def read(dataset: tf.data.Dataset) -> list[str]:
    return [record.decode() for record in dataset.as_numpy_iterator()]


def test_whole_files_are_read_in_order(tmp_path):
    many = [f"record {index}" for index in range(40)]  # more than a block
    files = [write(tmp_path / "0", *many), write(tmp_path / "1"), write(tmp_path / "2", "last")]
    assert read(all_records(files, [40, 0, 1])) == [*many, "last"]


@pytest.mark.parametrize("kept", [0, 1, 16, 17, 32, 39])
def test_file_that_was_cut_between_records_is_named(tmp_path, kept):
    path = write(tmp_path / "cut", *map(str, range(40)))
    cut_after(path, kept)
    assert len(read(tf.data.TFRecordDataset(path))) == kept  # TensorFlow notices nothing
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read(counted_records(path, 40))
    assert one_line(caught.value) == f"{path} must have 40 records, got {kept}"


def test_file_with_too_many_records_is_named(tmp_path):
    path = write(tmp_path / "long", "a", "b")
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have 1 records, got 2"):
        read(all_records([path], [1]))


def test_damaged_record_is_found_in_its_file(tmp_path):
    files = [write(tmp_path / "whole", "a"), write(tmp_path / "damaged", "b", "c")]
    os.truncate(files[1], os.path.getsize(files[1]) - 3)
    with pytest.raises(DamagedFile, match=f"{tmp_path}/damaged is damaged: "), naming_damage(files):
        read(all_records(files, [1, 2]))


def test_missing_file_is_named(tmp_path):
    files = [write(tmp_path / "whole", "a"), str(tmp_path / "gone")]
    with pytest.raises(DamagedFile, match=f"{tmp_path}/gone"), naming_damage(files):
        read(all_records(files, [1, 2]))


def test_errors_of_other_causes_pass(tmp_path):
    with (
        pytest.raises(tf.errors.NotFoundError, match="elsewhere"),
        naming_damage([write(tmp_path / "a", "a")]),
    ):
        raise tf.errors.NotFoundError(None, None, "elsewhere")
