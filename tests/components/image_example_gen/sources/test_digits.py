import collections

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from components.image_example_gen.sources import open_source
from tests.components.image_example_gen.sources.reading import assert_images


def test_digits_source_yields_all_images_in_17_levels_with_labels():
    def check(images):
        assert [images[0].key, images[-1].key] == ["digits/0000", "digits/1796"]
        assert len(images) == 1797
        digits = load_digits()
        assert [image.label for image in images] == digits.target.tolist()
        assert {(image.label, image.class_name) for image in images} == {(d, str(d)) for d in range(10)}
        pixels = tf.io.decode_png(images[5].content).numpy()[..., 0]
        np.testing.assert_array_equal(np.round(pixels.astype(float) * 16 / 255), digits.images[5])
        assert collections.Counter(image.split for image in images) == {None: 1797}

    source = open_source("digits")
    assert source.class_names == tuple("0123456789")
    assert_images(source, check)
