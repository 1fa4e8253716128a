import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate

from trainers.vit_vqgan import losses


def test_to_pixels_undoes_the_squeezed_logit():
    pixels = tf.linspace(0.0, 1.0, 11)
    x = losses.squeeze(pixels)
    np.testing.assert_allclose(losses.to_pixels(tf.math.log(x / (1 - x))), pixels, atol=1e-6)


def test_logit_laplace_in_closed_form():
    # A grey pixel squeezes to 0.5, whose logit is 0: |0 - mu| / b + ln b.
    loss = losses.logit_laplace(
        tf.constant([0.5]), mu=tf.constant([3.0]), log_scale=tf.constant([math.log(2)])
    )
    assert loss.numpy() == pytest.approx(3.0 / 2.0 + math.log(2))


def test_logit_laplace_with_its_jacobian_is_a_density():
    x = tf.linspace(tf.constant(1e-5, tf.float64), 1 - 1e-5, 100_001)
    mu, log_scale = tf.constant(0.7, tf.float64), tf.constant(math.log(0.4), tf.float64)
    loss = tf.vectorized_map(lambda pixel: losses.logit_laplace(pixel, mu, log_scale), (x - 0.1) / 0.8)
    density = tf.exp(-loss) / (2 * x * (1 - x))
    assert integrate.trapezoid(density, x) == pytest.approx(1.0, rel=1e-3)


def test_best_scale_is_the_mean_absolute_error():
    # d/db (e / b + ln b) = 0 at b = e.
    def at(scale: float) -> float:
        return float(
            losses.logit_laplace(tf.constant([0.5]), tf.constant([0.3]), tf.constant([math.log(scale)]))
        )

    assert at(0.3) < min(at(0.29), at(0.31))


def test_l2_and_psnr_in_closed_form():
    black, grey = tf.zeros([2, 4, 4, 3]), tf.fill([2, 4, 4, 3], 0.1)
    assert losses.l2(black, grey).numpy() == pytest.approx(0.01)
    assert losses.psnr(black, grey).numpy() == pytest.approx(20.0, abs=1e-4)
