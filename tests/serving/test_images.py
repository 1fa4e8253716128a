import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving import images


def encoded(kind: str, width: int, height: int) -> tf.Tensor:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(file, kind)
    return tf.constant(file.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_header_says_how_many_pixels_will_be_decoded(kind):
    assert images.pixels_by_header(encoded(kind, 40, 30)) == 1200


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\x89PNG", b"no picture at all, and no header"])
def test_what_has_no_header_is_left_to_the_decoder(content):
    assert images.pixels_by_header(tf.constant(content)) in (0, None) or len(content) > 24


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_request_is_refused_before_a_picture_unfolds(kind, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1200)
    monkeypatch.setattr(images, "decode", lambda image_bytes: pytest.fail("decoded"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a picture may have 1200 pixels"):
        images.decode_batch(tf.stack([encoded(kind, 40, 31)]), 8)
    monkeypatch.undo()
    monkeypatch.setattr(images, "MAX_PIXELS", 1200)
    (pixels,) = images.decode_batch(tf.stack([encoded(kind, 40, 30)]), 8).numpy()
    np.testing.assert_allclose(
        pixels, np.broadcast_to(np.float32([200, 100, 50]) / 255, [8, 8, 3]), atol=0.02
    )
