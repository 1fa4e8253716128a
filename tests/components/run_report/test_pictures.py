import base64
import io

import numpy as np
from PIL import Image

from components.run_report import pictures


def opened(uri):
    head, _, content = uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(content)))


def test_small_image_is_embedded_unchanged():
    image = np.random.default_rng(0).integers(0, 256, size=[16, 16, 3], dtype=np.uint8)
    head, picture = opened(pictures.data_uri(image))
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(picture), image)


def test_large_image_is_embedded_as_a_jpeg_thumbnail():
    head, picture = opened(pictures.data_uri(np.full([256, 256, 3], 200, np.uint8)))
    assert head == "data:image/jpeg;base64"
    assert picture.size == (96, 96)


def test_a_grid_holds_every_image_of_every_row():
    black, grey = np.zeros([2, 20, 20, 3], np.uint8), np.full([1, 20, 20, 3], 90, np.uint8)
    grid = np.asarray(Image.open(io.BytesIO(pictures.grid([("a", black), ("b", grey)]))))
    scale = 3  # a whole factor, up to about 64 pixels
    assert (grid == 90).all(axis=-1).sum() == (20 * scale) ** 2
    assert (grid == 0).all(axis=-1).sum() == 2 * (20 * scale) ** 2
