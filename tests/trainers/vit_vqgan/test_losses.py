import importlib.util
import math
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate

from components.metrics import pixels as metrics
from tests.trainers.vit_vqgan import published_losses
from trainers.vit_vqgan import losses


def test_to_pixels_inverts_the_squeezed_logit():
    pixels = tf.linspace(0.0, 1.0, 11)
    x = losses.squeeze(pixels)
    np.testing.assert_allclose(losses.to_pixels(tf.math.log(x / (1 - x))), pixels, atol=1e-6)


def test_logit_laplace_matches_closed_form():
    # A grey pixel squeezes to 0.5, whose logit is 0: |0 - mu| / b + ln b.
    loss = losses.logit_laplace(
        tf.constant([0.5]), mu=tf.constant([3.0]), log_scale=tf.constant([math.log(2)])
    )
    assert loss.numpy() == pytest.approx(3.0 / 2.0 + math.log(2))


def test_logit_laplace_with_jacobian_integrates_to_one():
    x = tf.linspace(tf.constant(1e-5, tf.float64), 1 - 1e-5, 100_001)
    mu, log_scale = tf.constant(0.7, tf.float64), tf.constant(math.log(0.4), tf.float64)
    loss = tf.vectorized_map(lambda pixel: losses.logit_laplace(pixel, mu, log_scale), (x - 0.1) / 0.8)
    density = tf.exp(-loss) / (2 * x * (1 - x))
    assert integrate.trapezoid(density, x) == pytest.approx(1.0, rel=1e-3)


def test_logit_laplace_with_jacobian_equals_the_evaluator_metric():
    pixels = np.random.default_rng(0).uniform(size=[1, 4, 4, 3]).astype("float32")
    mu, log_scale = (np.float32(x) * np.ones_like(pixels) for x in (0.4, -0.7))
    own = losses.logit_laplace(pixels, mu, log_scale) + losses.jacobian(pixels)
    (score,) = metrics.logit_laplace(pixels, mu, log_scale)
    assert float(own) == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("with_jacobian", [False, True])
def test_logit_laplace_gradients_match_finite_differences(with_jacobian):
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


def test_logit_laplace_is_lowest_at_the_absolute_error_as_scale():
    # d/db (e / b + ln b) = 0 at b = e.
    def at(scale: float) -> float:
        return float(
            losses.logit_laplace(tf.constant([0.5]), tf.constant([0.3]), tf.constant([math.log(scale)]))
        )

    assert at(0.3) < min(at(0.29), at(0.31))


def test_l2_and_psnr_match_closed_form():
    black, grey = tf.zeros([2, 4, 4, 3]), tf.fill([2, 4, 4, 3], 0.1)
    assert losses.l2(black, grey).numpy() == pytest.approx(0.01)
    assert losses.psnr(black, grey).numpy() == pytest.approx(20.0, abs=1e-4)


def test_psnr_of_identical_images_is_100_db():
    assert losses.psnr(tf.zeros([1, 4, 4, 3]), tf.zeros([1, 4, 4, 3])).numpy() == 100.0
    one_black, both_black = tf.stack([tf.fill([4, 4, 3], 0.1), tf.zeros([4, 4, 3])]), tf.zeros([2, 4, 4, 3])
    assert losses.psnr(one_black, both_black).numpy() == pytest.approx((20.0 + 100.0) / 2, abs=1e-4)


REAL = tf.constant([[1.0], [-2.0], [0.3]])
FAKE = tf.constant([[0.5], [3.0], [-40.0]])


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -np.asarray(x, np.float64))


def test_generator_loss_is_the_negative_log_probability_of_real():
    assert losses.generator_loss(FAKE).numpy() == pytest.approx(-log_sigmoid(FAKE).mean(), rel=1e-6)


def test_discriminator_loss_is_the_cross_entropy_of_real_and_fake():
    expected = -log_sigmoid(REAL).mean() - log_sigmoid(-FAKE.numpy()).mean()
    assert losses.discriminator_loss(REAL, FAKE).numpy() == pytest.approx(expected, rel=1e-6)
    undecided = tf.zeros([2, 4, 4, 1])
    assert losses.discriminator_loss(undecided, undecided).numpy() == pytest.approx(2 * np.log(2))


def test_gan_loss_gradients_match_closed_form():
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([REAL, FAKE])
        generator = losses.generator_loss(FAKE)
        discriminator = losses.discriminator_loss(REAL, FAKE)
    sigmoid = tf.sigmoid
    np.testing.assert_allclose(tape.gradient(generator, FAKE), -sigmoid(-FAKE) / 3, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(discriminator, FAKE), sigmoid(FAKE) / 3, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(discriminator, REAL), -sigmoid(-REAL) / 3, rtol=1e-5)


def test_r1_of_a_quadratic_discriminator_matches_closed_form():
    pixels = tf.random.stateless_uniform([5, 4, 4, 3], [1, 2])
    a = tf.random.stateless_normal([4, 4, 3], [3, 4])
    penalty = losses.r1_penalty(lambda x: tf.reduce_sum(a * x**2, axis=[1, 2, 3]), pixels)
    # In pixels p the gradient is 2 a p, in x = 2 p - 1 half of that; squares are summed over an image and
    # averaged over images.
    expected = np.mean(np.sum((a * pixels).numpy() ** 2, axis=(1, 2, 3)))
    assert penalty.numpy() == pytest.approx(expected, rel=1e-5)


def test_r1_gradients_of_weights_match_finite_differences():
    # A smooth function in float64, without layers, so that finite differences are accurate to 1e-6.
    pixels = tf.random.stateless_uniform([2, 4, 4, 3], [1, 2], dtype=tf.float64)
    kernel = tf.Variable(tf.random.stateless_normal([3, 3, 3, 2], [3, 4], dtype=tf.float64))

    def penalty() -> tf.Tensor:
        return losses.r1_penalty(lambda x: tf.math.softplus(tf.nn.conv2d(x, kernel, 1, "SAME")), pixels)

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
    lecam = losses.LeCAM(decay=0.9)
    lecam.update(tf.constant(2.0), tf.constant(-1.0), True)
    lecam.update(tf.constant(4.0), tf.constant(-3.0), True)
    lecam.update(tf.constant(9.0), tf.constant(9.0), False)
    # 0.9 * (0.1 * 2) + 0.1 * 4 and 0.9 * (0.1 * -1) + 0.1 * -3.
    np.testing.assert_allclose([keras.ops.convert_to_numpy(v) for v in lecam.variables], [0.58, -0.39])


def test_lecam_penalty_is_the_squared_distance_to_the_opposite_mean():
    lecam = losses.LeCAM(decay=0.0)
    lecam.update(tf.constant(2.0), tf.constant(-1.0), True)
    penalty = losses.lecam_penalty(
        tf.constant([[1.0], [3.0]]), tf.constant([[0.0], [-2.0]]), lecam.real_mean, lecam.fake_mean
    )
    # Means of (1 + 1)^2, (3 + 1)^2 and of (0 - 2)^2, (-2 - 2)^2.
    assert penalty.numpy() == pytest.approx((4 + 16) / 2 + (4 + 16) / 2)


def test_gan_losses_compile_under_xla():
    lecam = losses.LeCAM()

    @tf.function(jit_compile=True)
    def compiled(real: tf.Tensor, fake: tf.Tensor) -> list[tf.Tensor]:
        penalty = losses.lecam_penalty(real, fake, lecam.real_mean, lecam.fake_mean)
        lecam.update(tf.reduce_mean(real), tf.reduce_mean(fake), tf.constant(True))
        return [losses.generator_loss(fake), losses.discriminator_loss(real, fake), penalty]

    generator, discriminator, penalty = compiled(REAL, FAKE)
    assert generator.numpy() == pytest.approx(losses.generator_loss(FAKE).numpy(), rel=1e-6)
    assert discriminator.numpy() == pytest.approx(losses.discriminator_loss(REAL, FAKE).numpy(), rel=1e-6)
    assert penalty.numpy() == pytest.approx(np.mean(REAL.numpy() ** 2) + np.mean(FAKE.numpy() ** 2), rel=1e-6)


def test_published_losses_leave_sys_modules_unchanged(monkeypatch):
    # The import leaves behind neither Keras 2 nor TensorFlow Probability nor a stand-in package.
    package = types.ModuleType("tensorflow_gan")
    package.__spec__ = importlib.util.find_spec("tensorflow_gan")
    monkeypatch.setitem(sys.modules, "tensorflow_gan", package)
    before = dict(sys.modules)
    published = importlib.reload(published_losses)
    assert sys.modules == before
    assert published.modified_generator_loss.__module__ == "tensorflow_gan.python.losses.losses_impl"


def test_gan_losses_match_tensorflow_gan():
    for shape in ([7, 1], [3, 4, 4, 1]):
        real, fake = (5.0 * tf.random.stateless_normal(shape, [seed, 0]) for seed in (1, 2))
        generator = published_losses.modified_generator_loss(fake, loss_collection=None)
        discriminator = published_losses.modified_discriminator_loss(
            real, fake, label_smoothing=0.0, loss_collection=None
        )
        assert losses.generator_loss(fake).numpy() == pytest.approx(generator.numpy(), rel=1e-6)
        assert losses.discriminator_loss(real, fake).numpy() == pytest.approx(discriminator.numpy(), rel=1e-6)
