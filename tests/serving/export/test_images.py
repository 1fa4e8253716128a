import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.export import images


def encoded(kind: str, width: int, height: int) -> tf.Tensor:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(file, kind)
    return tf.constant(file.getvalue())


@pytest.mark.parametrize(
    ("kind", "pixels"), [("JPEG", 1200), ("PNG", 1200), ("BMP", 0), ("GIF", tf.int64.max)]
)
def test_pixel_count_is_read_from_the_header(kind, pixels):
    assert images.pixels_by_header(encoded(kind, 40, 30)) == pixels


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\x89PNG", b"no picture at all, and no header"])
def test_pixel_count_without_a_header_is_0(content):
    assert images.pixels_by_header(tf.constant(content)) == 0


@pytest.mark.parametrize(("kind", "height"), [("JPEG", 31), ("PNG", 31), ("GIF", 2)])
@pytest.mark.parametrize("in_graph", [False, True])
def test_oversized_image_or_gif_is_rejected_before_decoding(kind, height, in_graph, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1200)
    decoded = []
    decode = images.decode
    monkeypatch.setattr(
        images,
        "decode",
        lambda one: decode(tf.numpy_function(lambda x: decoded.append(x) or x, [one], tf.string)),
    )

    def batch(content: tf.Tensor) -> tf.Tensor:
        return images.decode_batch(content, 8)

    ask = tf.function(batch) if in_graph else batch
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="image must have at most 1200 pixels and not be a GIF"
    ):
        ask(tf.stack([encoded(kind, 40, height)]))
    assert not decoded
    if kind != "GIF":
        (pixels,) = ask(tf.stack([encoded(kind, 40, 30)])).numpy()
        grey = np.broadcast_to(np.float32([200, 100, 50]) / 255, [8, 8, 3])
        np.testing.assert_allclose(pixels, grey, atol=0.02)
        assert len(decoded) == 1
