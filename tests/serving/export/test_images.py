import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.export import images


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_batch_is_decoded_and_cropped(encoding):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 50)).save(file, encoding)
    (pixels,) = images.decode_batch(tf.constant([file.getvalue()]), 8).numpy()
    np.testing.assert_allclose(
        pixels, np.broadcast_to(np.float32([200, 100, 50]) / 255, [8, 8, 3]), atol=0.02
    )


def test_jpeg_is_decoded_as_pillow_does():
    pixels = np.random.default_rng(0).integers(0, 256, [4, 4, 3]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((50, 40), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    found = np.round(255 * images.decode(tf.constant(file.getvalue())).numpy())
    np.testing.assert_array_equal(found, np.asarray(Image.open(file)))


def test_other_bytes_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        images.decode(tf.constant(b"<html>404</html>"))
