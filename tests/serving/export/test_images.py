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


def coordinates(height: int, width: int) -> tf.Tensor:
    """A picture whose red is the column and whose green is the row, both as a share of 1,000 pixels."""
    rows, columns = np.mgrid[:height, :width] / 1000
    return tf.constant(np.stack([columns, rows, np.zeros_like(rows)], axis=-1), tf.float32)


def square(pixels: tf.Tensor, seed: int, min_scale: float) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels of the random crop, as its colours tell."""
    crop = 1000 * images.random_resized_crop(
        pixels, 32, tf.constant([5, seed]), min_scale=min_scale, flip=False
    )
    # Away from the edges, where the filter of the resize is cut off.
    inner = crop.numpy()[8:24, 8:24]
    across, down = (inner[0, -1, 0] - inner[0, 0, 0]) / 15 * 32, (inner[-1, 0, 1] - inner[0, 0, 1]) / 15 * 32
    left, top = inner[0, 0, 0] - across * 8.5 / 32 + 0.5, inner[0, 0, 1] - down * 8.5 / 32 + 0.5
    return left, top, across, down


@pytest.mark.parametrize(("height", "width"), [(280, 500), (400, 300)])
def test_random_crop_is_a_square_of_the_image_at_any_place(height, width):
    pixels, min_scale = coordinates(height, width), 0.8
    found = np.array([square(pixels, seed, min_scale) for seed in range(150)])
    left, top, across, down = found.T
    np.testing.assert_allclose(across, down, rtol=2e-3)
    area = across * down / min(height, width) ** 2
    assert (area.min() > 0.79, area.max() < 1.01) == (True, True)
    # Even over its range: a mean of 0.9, with a standard error of 0.005.
    assert abs(area.mean() - 0.9) < 0.02
    for offset, room in ((left, width - across), (top, height - down)):
        share = offset / room
        assert (-0.01 < share.min() < 0.05, 0.95 < share.max() < 1.01) == (True, True)
        assert abs(share.mean() - 0.5) < 0.1


def test_random_crop_of_whole_pixels_is_the_crop_that_is_resized():
    pixels = tf.constant(np.random.default_rng(0).uniform(size=[40, 60, 3]), tf.float32)
    crop = images._crop(pixels, 16, top=tf.constant(3.0), left=tf.constant(20.0), side=tf.constant(32.0))
    # But for the edges, where the filter of the crop sees what is beside it.
    expected = images.resize(pixels[3:35, 20:52], 16)
    np.testing.assert_allclose(crop[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-5)


def test_random_crops_of_a_small_image_are_all_different():
    pixels = coordinates(8, 8)
    crops = [
        images.random_resized_crop(pixels, 8, tf.constant([0, seed]), min_scale=0.8, flip=False).numpy()
        for seed in range(30)
    ]
    assert len({crop.tobytes() for crop in crops}) == 30


def test_random_crop_without_scale_and_flip_is_the_centre_crop():
    pixels = coordinates(30, 50)
    crop = images.random_resized_crop(pixels, 16, tf.constant([0, 1]), min_scale=1.0, flip=False)
    np.testing.assert_array_equal(crop, images.center_crop(pixels, 16))


def test_random_crop_flips_half_of_the_images():
    pixels = coordinates(32, 32)
    flipped = [
        bool(crop[0, 0, 0] > crop[0, -1, 0])
        for seed in range(60)
        for crop in [
            images.random_resized_crop(pixels, 32, tf.constant([0, seed]), min_scale=1.0, flip=True).numpy()
        ]
    ]
    assert 18 <= sum(flipped) <= 42


@pytest.mark.parametrize("side", [1, 2, 3])
def test_random_crop_of_a_few_pixels_has_one_at_least(side):
    crop = images.random_resized_crop(
        coordinates(side, 9), 8, tf.constant([0, 1]), min_scale=0.01, flip=False
    )
    assert np.isfinite(crop.numpy()).all()
