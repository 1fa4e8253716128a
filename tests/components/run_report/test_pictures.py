import base64
import io

import numpy as np
import pytest
from PIL import Image

from components.run_report import pictures


def opened(uri):
    head, _, content = uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(content)))


def test_small_image_is_embedded_unchanged():
    image = np.random.default_rng(0).integers(0, 256, size=[16, 16, 3], dtype=np.uint8)
    head, picture = opened(pictures.picture(image, "").uri)
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(picture), image)


@pytest.mark.parametrize(("size", "embedded"), [(65, 65), (256, 256), (512, 256)])
def test_photographs_are_embedded_at_their_size_up_to_256(size, embedded):
    head, picture = opened(pictures.picture(np.full([size, size, 3], 200, np.uint8), "").uri)
    assert head == "data:image/webp;base64"
    assert picture.size == (embedded, embedded)
    np.testing.assert_allclose(np.asarray(picture), 200, atol=2)


def test_differences_are_amplified_and_end_at_white():
    a, b = np.array([[[[10, 200, 0]]]], np.uint8), np.array([[[[13, 190, 255]]]], np.uint8)
    assert pictures.difference(a, b).ravel().tolist() == [12, 40, 255]


def test_a_grid_holds_every_image_of_every_row():
    black, grey = np.zeros([2, 20, 20, 3], np.uint8), np.full([1, 20, 20, 3], 90, np.uint8)
    grid = np.asarray(Image.open(io.BytesIO(pictures.grid([("a", black), ("b", grey)]))))
    scale = 3  # a whole factor, up to about 64 pixels
    assert (grid == 90).all(axis=-1).sum() == (20 * scale) ** 2
    assert (grid == 0).all(axis=-1).sum() == 2 * (20 * scale) ** 2
