import numpy as np

from components.reference_statistics import stored


def test_thumbnails_are_means_of_squares_and_small_images_stay_as_they_are():
    levels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    means = levels.reshape(2, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(stored.thumbnails(levels), np.rint(means.astype(np.float32)))
    small = levels[:, :8, :8]
    np.testing.assert_array_equal(stored.thumbnails(small), small)
