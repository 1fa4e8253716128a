import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from benchmarks.recognized import Judge, _surest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.trained()


def test_judge_recognizes_real_digits_at_sample_size(judge):
    assert judge.accuracy > 0.97
    pixels, labels = load_digits(return_X_y=True)
    grey = np.repeat(pixels.reshape(-1, 8, 8, 1) * (255 / 16), 3, axis=-1)[:200]
    pictures = tf.cast(tf.image.resize(grey, [32, 32], method="bicubic"), tf.uint8).numpy()
    assert judge.share(pictures, labels[:200]) > 0.97
    assert judge.share(pictures, (labels[:200] + 1) % 10) < 0.03


def test_most_confident_samples_of_a_class_are_kept():
    sure = np.array([0.1, 0.9, 0.8, 0.7, 0.95])
    assert _surest(sure, np.array([True, True, False, True, False]), 2).tolist() == [1, 3]
