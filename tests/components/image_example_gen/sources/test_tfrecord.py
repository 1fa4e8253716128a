import os

import pytest
import tensorflow as tf

from components.image_example_gen.sources import SourceError, open_source, source_version
from components.tfrecords import serialize_example
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images


def write(path, *examples, compression=None):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for example in examples:
            writer.write(serialize_example(example))


def found(image):
    return image.key, image.label, image.class_name if image.label is not None else "", image.split


PNG = pictures.encoded()


def test_own_keys_imagenet_keys_and_bare_images_are_read(tmp_path):
    write(
        tmp_path / "a.tfrecord",
        {"image/encoded": PNG, "image/key": b"k", "image/label": [1], "image/class": b"dog"},
        {"image/encoded": PNG, "image/class/label": [7], "image/class/text": b"tench"},
        {"image/encoded": PNG, "image/label": [3]},
    )
    write(
        tmp_path / "b.tfrecord.gz",
        {"image/encoded": PNG, "image/label": [-1]},
        {"image/key": b"no image"},
        compression="GZIP",
    )

    def check(images):
        assert [found(image) for image in images] == [
            ("a.tfrecord/1", 7, "tench", None),
            ("a.tfrecord/2", 3, "3", None),
            ("b.tfrecord.gz/0", None, "", None),
            ("k", 1, "dog", None),
            ("no image", None, "", None),
        ]
        assert [image.content for image in images] == [PNG] * 4 + [b""]

    assert_images(open_source(f"tfrecord:{tmp_path}/*.tfrecord*"), check)


def test_pattern_without_matches_is_source_error(tmp_path):
    with pytest.raises(SourceError, match=r"none-\* must match a file, got none"):
        open_source(f"tfrecord:{tmp_path}/none-*")


def test_file_that_is_not_a_tfrecord_is_named_in_the_error(tmp_path):
    (tmp_path / "a").write_bytes(b"something else, and long enough for a record header")
    with pytest.raises(SourceError, match=r"/a must be a TFRecord file of tf.Example"):
        assert_images(open_source(f"tfrecord:{tmp_path}/a"), lambda images: None)


def test_whole_tfrecord_without_tf_examples_is_source_error(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        writer.write(b"\x0b no protocol buffer")
    with pytest.raises(SourceError, match=r"/a must be a TFRecord file of tf.Example"):
        assert_images(open_source(f"tfrecord:{tmp_path}/a"), lambda images: None)


def test_the_version_changes_with_the_files(tmp_path):
    write(tmp_path / "a", {"image/encoded": PNG})
    source = f"tfrecord:{tmp_path}/*"
    first = source_version(source)
    assert source_version(source) == first
    os.utime(tmp_path / "a", (1, 1))
    assert source_version(source) != first
