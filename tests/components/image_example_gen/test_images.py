import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from components.image_example_gen.images import Image, serialize
from components.tfrecords import BrokenRecord
from tests.components.image_example_gen import pictures


def features(image):
    feature = tf.train.Example.FromString(serialize(image)).features.feature
    return {name: (value.bytes_list.value or value.int64_list.value)[0] for name, value in feature.items()}


@pytest.mark.parametrize(("encoding", "name"), [("JPEG", b"jpeg"), ("PNG", b"png")])
def test_jpeg_and_png_bytes_are_kept_unchanged(encoding, name):
    content = pictures.encoded(100, encoding, size=(12, 8))
    assert features(Image("a", 1, "cat", content=content)) == {
        "image/encoded": content,
        "image/format": name,
        "image/height": 8,
        "image/width": 12,
        "image/key": b"a",
        "image/label": 1,
        "image/class": b"cat",
    }


def test_unlabelled_image_has_no_label_feature():
    assert not {"image/label", "image/class"} & set(features(Image("a", content=pictures.encoded())))


def test_webp_is_converted_to_png_with_the_same_pixels():
    buffer = io.BytesIO()
    PIL.Image.open(io.BytesIO(pictures.encoded(90))).save(buffer, "WEBP", lossless=True)
    found = features(Image("a", content=buffer.getvalue()))
    assert found["image/format"] == b"png"
    np.testing.assert_array_equal(
        tf.io.decode_png(found["image/encoded"]), tf.io.decode_png(pictures.encoded(90))
    )


def test_image_file_is_read_on_serialization(tmp_path):
    pictures.write(tmp_path / "a.png", 70)
    assert features(Image("a", path=str(tmp_path / "a.png")))["image/encoded"] == pictures.encoded(70)


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("missing", [2, 10, 0.5])
def test_truncated_image_is_broken_even_if_only_2_bytes_are_missing(encoding, missing):
    content = pictures.encoded(encoding=encoding, size=(64, 64))
    kept = len(content) - (missing if missing >= 1 else int(len(content) * missing))
    with pytest.raises(BrokenRecord, match="cannot be decoded"):
        serialize(Image("a", content=content[:kept]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no image at all", "must be a JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, JPEG2000 or PPM image"),
    ],
)
def test_empty_or_non_image_content_is_broken(content, reason):
    with pytest.raises(BrokenRecord, match=reason):
        serialize(Image("a", content=content))


def test_a_missing_file_is_broken(tmp_path):
    with pytest.raises(BrokenRecord, match="cannot be read"):
        serialize(Image("a", path=str(tmp_path / "gone.png")))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb_is_rejected_before_decoding(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(BrokenRecord, match="pixels"):
        serialize(Image("a", content=bomb))
