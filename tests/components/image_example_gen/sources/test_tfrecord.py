import os

import pytest
import tensorflow as tf

from components.image_example_gen.source_kinds import SourceOptions
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


def write_rows(path, rows, options=None):
    """Write rows of name -> value, of any type, as other people write them."""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for row in rows:
            example = tf.train.Example()
            for name, value in row.items():
                values = value if isinstance(value, list) else [value]
                kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
                getattr(example.features.feature[name], kind).value.extend(values)
            writer.write(example.SerializeToString())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image/label": b"cat"}, "image/label must be int64, got bytes: b'cat'"),
        ({"image/label": 1.0}, "image/label must be int64, got float: 1.0"),
        ({"image/label": [1, 5]}, r"image/label must be one label, got 2: \[1, 5\]"),
        ({"image/label": 100_000_001}, "image/label must be -1 to 999999, got 100000001"),
        ({"image/class/label": -2}, "image/class/label must be -1 to 999999, got -2"),
        ({"image/label": 0, "image/class": b"caf\xe9"}, "image/class must be UTF-8"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_label_of_another_kind_is_refused_in_every_record(tmp_path, row, message, place):
    rows = [{"image/encoded": PNG, "image/label": 0} for _ in range(4)]
    rows[place] = {"image/encoded": PNG, **row}
    write_rows(tmp_path / "a", rows)
    with pytest.raises(SourceError, match=f"/a, record {place}: {message}"):
        list(open_source(f"tfrecord:{tmp_path}/a").scan())


def test_features_of_other_names_are_listed_and_can_be_chosen(tmp_path):
    write_rows(tmp_path / "a", [{"image": PNG, "label": 1, "species": 4}])
    with pytest.raises(SourceError, match=r"data\.image_feature may name one of image, label, species"):
        list(open_source(f"tfrecord:{tmp_path}/a").scan())
    chosen = SourceOptions(image_feature="image", label_feature="species")
    (image,) = open_source(f"tfrecord:{tmp_path}/a", chosen).scan()
    assert (image.content, image.label) == (PNG, 4)
    versions = {source_version(f"tfrecord:{tmp_path}/a", options) for options in (chosen, SourceOptions())}
    assert len(versions) == 2


def test_gzip_is_recognized_by_its_bytes(tmp_path):
    write_rows(tmp_path / "a.tfrecord", [{"image/encoded": PNG}], "GZIP")
    write_rows(tmp_path / "b.gz", [{"image/encoded": PNG}])
    assert len(list(open_source(f"tfrecord:{tmp_path}/*").scan())) == 2


def test_record_as_long_as_the_magic_bytes_of_gzip_is_no_gzip(tmp_path):
    # A TFRecord file begins with the length of its first record: 0x088b1f bytes.
    rest = len(serialize_example({"image/encoded": bytes(559_903)})) - 559_903
    write(tmp_path / "a", {"image/encoded": bytes(559_903 - rest)})
    assert (tmp_path / "a").read_bytes().startswith(b"\x1f\x8b\x08")
    assert len(list(open_source(f"tfrecord:{tmp_path}/a").scan())) == 1


def test_first_words_of_files_are_splits(tmp_path):
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        write(tmp_path / name, {"image/encoded": PNG})
    assert [image.split for image in open_source(f"tfrecord:{tmp_path}/*").scan()] == ["train", "eval"]


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path):
    (tmp_path / "photos [v1]").mkdir()
    write(tmp_path / "photos [v1]" / "a b", {"image/encoded": PNG})
    assert len(list(open_source(f"tfrecord:{tmp_path}/photos [v1]/*").scan())) == 1
    assert len(list(open_source(f"tfrecord:{tmp_path}/photos [v1]/a b").scan())) == 1


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"label": 1}, {}),
        ({"image/category": 1}, {}),
        ({"image/label": 1}, {"label_feature": "nope"}),
    ],
)
def test_missing_label_is_not_passed_over_where_there_may_be_one(tmp_path, row, options):
    write_rows(tmp_path / "a", [{"image/encoded": PNG, **row}])
    with pytest.raises(SourceError, match=r'must be a label, got none; data\.label_feature .* "" for none'):
        list(open_source(f"tfrecord:{tmp_path}/a", SourceOptions(**options)).scan())
