import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate

from components.metrics import pixels as metrics
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


def test_with_its_jacobian_it_is_the_score_of_the_evaluator():
    pixels = np.random.default_rng(0).uniform(size=[1, 4, 4, 3]).astype("float32")
    mu, log_scale = (np.float32(x) * np.ones_like(pixels) for x in (0.4, -0.7))
    own = losses.logit_laplace(pixels, mu, log_scale) + losses.jacobian(pixels)
    (score,) = metrics.logit_laplace(pixels, mu, log_scale)
    assert float(own) == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("with_jacobian", [False, True])
def test_gradients_of_logit_laplace_agree_with_finite_differences(with_jacobian):
    generator = np.random.default_rng(1)
    pixels = tf.constant(generator.uniform(size=[2, 3]))
    given = [tf.constant(generator.normal(size=[2, 3])) for _ in range(2)]

    def value(mu: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
        loss = losses.logit_laplace(pixels, mu, log_scale)
        return loss + losses.jacobian(pixels) if with_jacobian else loss

    theirs, numeric = tf.test.compute_gradient(value, given, delta=1e-6)
    for analytic, finite in zip(theirs, numeric, strict=True):
        np.testing.assert_allclose(analytic, finite, rtol=1e-5, atol=1e-8)
        assert np.all(finite)


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


def test_the_same_picture_has_100_db_so_that_it_does_not_hide_the_others():
    assert losses.psnr(tf.zeros([1, 4, 4, 3]), tf.zeros([1, 4, 4, 3])).numpy() == 100.0
    one_black, both_black = tf.stack([tf.fill([4, 4, 3], 0.1), tf.zeros([4, 4, 3])]), tf.zeros([2, 4, 4, 3])
    assert losses.psnr(one_black, both_black).numpy() == pytest.approx((20.0 + 100.0) / 2, abs=1e-4)
