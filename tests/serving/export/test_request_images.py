"""One table: every kind of file, by every way into the product, compared by pixel values."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import ImageCms

from components.image_example_gen.images import Image, serialize
from serving.client.queries import _sendable
from serving.export import images, request_images
from serving.export.standard_image import to_pixels
from serving.wire.errors import one_line
from tests.serving.export.image_files import FILES, chunk, encoded, hidden, linear_profile, png, two_halves

in_request = tf.function(request_images.decode, input_signature=[tf.TensorSpec([], tf.string)])
# Loss of a JPEG and of a conversion of colours, in levels.
LEVELS = 3


def stored(content: bytes) -> np.ndarray:
    example = tf.train.Example.FromString(serialize(Image("key", content=content)))
    return levels(images.decode(tf.constant(example.features.feature["image/encoded"].bytes_list.value[0])))


def sent(content: bytes) -> np.ndarray:
    (one,) = _sendable([content])
    return levels(in_request(tf.constant(one)))


def shown(content: bytes) -> np.ndarray:
    return np.asarray(to_pixels(content))


def levels(pixels: tf.Tensor) -> np.ndarray:
    return np.round(255 * pixels.numpy())


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=LEVELS)


@pytest.mark.parametrize("way", [stored, sent, shown])
@pytest.mark.parametrize("kind", FILES)
def test_file_becomes_the_pixels_that_people_see(kind, way):
    assert_same(way(FILES[kind].content), FILES[kind].pixels)


@pytest.mark.parametrize("kind", FILES)
def test_bare_request_is_answered_with_the_same_pixels_or_refused(kind):
    file = FILES[kind]
    if file.refusal:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            in_request(tf.constant(file.content))
        assert file.refusal in one_line(caught.value)
    else:
        assert_same(levels(in_request(tf.constant(file.content))), file.pixels)


def test_all_ways_give_the_same_levels():
    smooth = tf.image.resize(tf.random.stateless_uniform([4, 4, 3], seed=[0, 0], maxval=255.0), [40, 50])
    content = encoded(tf.cast(smooth, tf.uint8).numpy(), "JPEG", quality=80)
    for way in (stored, sent):
        np.testing.assert_array_equal(way(content), shown(content))


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"<html>404</html>"])
def test_bytes_that_are_no_image_are_refused(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_request(tf.constant(content))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_cut_file_is_refused(kind, share):
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_request(tf.constant(FILES[kind].content[: int(share * len(FILES[kind].content))]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_oversized_image_is_refused_by_its_header(kind, monkeypatch):
    for decoder in ("decode_jpeg", "decode_png", "decode_bmp"):
        monkeypatch.setattr(tf.image, decoder, lambda *_, **__: pytest.fail("the image was decoded"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 100 pixels"):
        request_images.decode(tf.constant(FILES[kind].content), max_pixels=100)


def test_transparent_pixels_get_the_ground_of_the_model():
    content = encoded(hidden()[0], "PNG")
    pixels = levels(request_images.decode(tf.constant(content), "#102030"))
    np.testing.assert_array_equal(pixels[0, 0], [0x10, 0x20, 0x30])
    np.testing.assert_array_equal(pixels[5, 5], [255, 0, 0])


def test_srgb_profiles_are_accepted():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for encoding in ("JPEG", "PNG"):
        content = encoded(two_halves(), encoding, quality=100, subsampling=0, icc_profile=srgb)
        assert_same(levels(in_request(tf.constant(content))), two_halves())


def test_profile_that_would_unpack_to_much_is_refused_unread(monkeypatch):
    monkeypatch.setattr(tf.io, "decode_compressed", lambda *_: pytest.fail("the profile was unpacked"))
    chunk_of = chunk(b"iCCP", b"name\0\0" + linear_profile() + np.random.default_rng(0).bytes(20_000))
    content = png(1, 1, 8, 2, b"\0\0\0\0", chunk_of)
    with pytest.raises(tf.errors.InvalidArgumentError, match="colour profile"):
        request_images.decode(tf.constant(content))


@pytest.mark.parametrize("seed", range(40))
def test_malformed_metadata_ends_in_pixels_or_a_refusal(seed):
    # Segments, chunks and directories of random length: no loop without end, no read behind the end.
    random = np.random.default_rng(seed)
    for kind in ("JPEG, turned 6", "PNG, turned", "JPEG, linear light", "PNG, linear light", "BMP, palette"):
        content = bytearray(FILES[kind].content)
        for at in random.integers(2, min(len(content), 160), 4):
            content[at] = random.integers(256)
        with contextlib.suppress(tf.errors.InvalidArgumentError, tf.errors.DataLossError):
            assert in_request(tf.constant(bytes(content))).shape[-1] == 3


@pytest.mark.parametrize(
    "content",
    [
        FILES["JPEG"].content[:2] + b"\xff\xe0\0\2" * 3000 + FILES["JPEG"].content[2:],
        FILES["JPEG"].content[:2] + bytes(3000) + FILES["JPEG"].content[2:],
        png(1, 1, 8, 2, b"\0\0\0\0", *[chunk(b"teST", b"")] * 11_000),
    ],
)
def test_header_without_end_is_refused(content):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?i)image must have fewer|jpeg"):
        in_request(tf.constant(content))
