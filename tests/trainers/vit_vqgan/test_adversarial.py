import importlib.util
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.vit_vqgan import adversarial, published_losses

REAL = tf.constant([[1.0], [-2.0], [0.3]])
FAKE = tf.constant([[0.5], [3.0], [-40.0]])


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -np.asarray(x, np.float64))


def test_generator_loss_is_the_log_probability_of_real():
    assert adversarial.generator_loss(FAKE).numpy() == pytest.approx(-log_sigmoid(FAKE).mean(), rel=1e-6)


def test_discriminator_loss_is_the_cross_entropy_of_both_sides():
    expected = -log_sigmoid(REAL).mean() - log_sigmoid(-FAKE.numpy()).mean()
    assert adversarial.discriminator_loss(REAL, FAKE).numpy() == pytest.approx(expected, rel=1e-6)
    undecided = tf.zeros([2, 4, 4, 1])
    assert adversarial.discriminator_loss(undecided, undecided).numpy() == pytest.approx(2 * np.log(2))


def test_both_sides_pull_in_opposite_directions_and_hardest_where_they_lose():
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([REAL, FAKE])
        generator = adversarial.generator_loss(FAKE)
        discriminator = adversarial.discriminator_loss(REAL, FAKE)
    sigmoid = tf.sigmoid
    np.testing.assert_allclose(tape.gradient(generator, FAKE), -sigmoid(-FAKE) / 3, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(discriminator, FAKE), sigmoid(FAKE) / 3, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(discriminator, REAL), -sigmoid(-REAL) / 3, rtol=1e-5)


def test_r1_of_a_quadratic_discriminator_in_closed_form():
    pixels = tf.random.stateless_uniform([5, 4, 4, 3], [1, 2])
    a = tf.random.stateless_normal([4, 4, 3], [3, 4])
    penalty = adversarial.r1_penalty(lambda x: tf.reduce_sum(a * x**2, axis=[1, 2, 3]), pixels)
    # In pixels p the slope is 2 a p, in x = 2 p - 1 half of that; squares are summed within an image and
    # averaged between images.
    expected = np.mean(np.sum((a * pixels).numpy() ** 2, axis=(1, 2, 3)))
    assert penalty.numpy() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_r1_to_the_weights_agrees_with_finite_differences():
    # Smooth, in float64 and without layers, so that differences are exact to 1e-6.
    pixels = tf.random.stateless_uniform([2, 4, 4, 3], [1, 2], dtype=tf.float64)
    kernel = tf.Variable(tf.random.stateless_normal([3, 3, 3, 2], [3, 4], dtype=tf.float64))

    def penalty() -> tf.Tensor:
        return adversarial.r1_penalty(lambda x: tf.math.softplus(tf.nn.conv2d(x, kernel, 1, "SAME")), pixels)

    with tf.GradientTape() as tape:
        value = penalty()
    gradient = tape.gradient(value, kernel).numpy()
    start, step = kernel.numpy(), 1e-5
    for index in [(0, 0, 0, 0), (1, 1, 2, 1), (2, 0, 1, 0)]:
        shift = np.zeros_like(start)
        shift[index] = step
        kernel.assign(start + shift)
        above = penalty().numpy()
        kernel.assign(start - shift)
        below = penalty().numpy()
        assert gradient[index] == pytest.approx((above - below) / (2 * step), rel=1e-6)


def test_lecam_keeps_running_means():
    lecam = adversarial.LeCAM(decay=0.9)
    lecam.update(tf.constant(2.0), tf.constant(-1.0), True)
    lecam.update(tf.constant(4.0), tf.constant(-3.0), True)
    lecam.update(tf.constant(9.0), tf.constant(9.0), False)
    # 0.9 * (0.1 * 2) + 0.1 * 4 and 0.9 * (0.1 * -1) + 0.1 * -3.
    np.testing.assert_allclose([keras.ops.convert_to_numpy(v) for v in lecam.variables], [0.58, -0.39])


def test_lecam_penalty_is_the_squared_distance_to_the_other_side():
    lecam = adversarial.LeCAM(decay=0.0)
    lecam.update(tf.constant(2.0), tf.constant(-1.0), True)
    penalty = adversarial.lecam_penalty(
        tf.constant([[1.0], [3.0]]), tf.constant([[0.0], [-2.0]]), lecam.real_mean, lecam.fake_mean
    )
    # Means of (1 + 1)^2, (3 + 1)^2 and of (0 - 2)^2, (-2 - 2)^2.
    assert penalty.numpy() == pytest.approx((4 + 16) / 2 + (4 + 16) / 2)


def test_losses_compile():
    lecam = adversarial.LeCAM()

    @tf.function(jit_compile=True)
    def losses(real: tf.Tensor, fake: tf.Tensor) -> list[tf.Tensor]:
        penalty = adversarial.lecam_penalty(real, fake, lecam.real_mean, lecam.fake_mean)
        lecam.update(tf.reduce_mean(real), tf.reduce_mean(fake), tf.constant(True))
        return [adversarial.generator_loss(fake), adversarial.discriminator_loss(real, fake), penalty]

    generator, discriminator, penalty = losses(REAL, FAKE)
    assert generator.numpy() == pytest.approx(adversarial.generator_loss(FAKE).numpy(), rel=1e-6)
    assert discriminator.numpy() == pytest.approx(
        adversarial.discriminator_loss(REAL, FAKE).numpy(), rel=1e-6
    )
    assert penalty.numpy() == pytest.approx(np.mean(REAL.numpy() ** 2) + np.mean(FAKE.numpy() ** 2), rel=1e-6)


def test_published_losses_leave_the_loaded_modules_as_they_were(monkeypatch):
    # Neither Keras 2 nor TensorFlow Probability comes in, nor a stand-in that others would meet.
    package = types.ModuleType("tensorflow_gan")
    package.__spec__ = importlib.util.find_spec("tensorflow_gan")
    monkeypatch.setitem(sys.modules, "tensorflow_gan", package)
    before = dict(sys.modules)
    losses = importlib.reload(published_losses)
    assert sys.modules == before
    assert losses.modified_generator_loss.__module__ == "tensorflow_gan.python.losses.losses_impl"
