"""A photograph that comes with scikit-learn."""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_image


def crop(size: int) -> np.ndarray:
    """The centre of a photograph of a temple, resized to float32 [size, size, 3] in [0, 1]."""
    picture = load_sample_image("china.jpg")[13:413, 120:520] / np.float32(255.0)
    return tf.image.resize(picture, [size, size], antialias=True).numpy()
