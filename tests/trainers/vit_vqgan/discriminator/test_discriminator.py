"""What both discriminators promise."""

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from trainers.vit_vqgan.adversarial import discriminator_loss, generator_loss, r1_penalty
from trainers.vit_vqgan.discriminator import config
from trainers.vit_vqgan.discriminator.network import build

SMALL = [
    config.StyleGAN2(channel_multiplier=1 / 128, minibatch_stddev=2),
    config.PatchGAN(channels=4, layers=2),
]
both = pytest.mark.parametrize("options", SMALL, ids=lambda options: options.network)


def images(batch: int = 2, size: int = 16) -> tf.Tensor:
    return tf.random.stateless_uniform([batch, size, size, 3], [1, 2])


@pytest.fixture
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@both
@pytest.mark.parametrize("size", [16, 32, 64])
def test_logits_are_one_an_image_or_one_a_patch(options, size):
    logits = build(options, image_size=size)(images(size=size))
    assert logits.shape == ((2, 1) if options.network == "stylegan2" else (2, size // 4, size // 4, 1))
    assert logits.dtype == tf.float32


@pytest.mark.parametrize("size", [128, 256, 512])
def test_stylegan2_takes_large_images_too(size):
    options = config.StyleGAN2(channel_multiplier=0.01, max_channels=8)
    network = build(options, image_size=size)
    assert network(images(batch=1, size=size)).shape == (1, 1)
    assert len(network.blocks) == np.log2(size // 4)


def test_sizes_that_do_not_fit_are_one_clear_line():
    with pytest.raises(ValueError, match=r"^image size 48 .* stylegan2, allowed are 16, 32, .*512$"):
        build(config.StyleGAN2(), image_size=48)
    with pytest.raises(ValueError, match=r"^image size 20 .* patchgan, allowed are multiples of 8 "):
        build(config.PatchGAN(), image_size=20)


def test_the_network_is_chosen_by_name():
    adapter = pydantic.TypeAdapter(config.Discriminator)
    assert isinstance(adapter.validate_python({"network": "patchgan", "layers": 2}), config.PatchGAN)
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python({"network": "stylegan2", "layers": 2})


@both
def test_grey_is_the_centre_of_the_input(options):
    """All biases start at 0, so that grey, centred to 0, passes as 0."""
    logits = build(options, image_size=16)(tf.fill([2, 16, 16, 3], 0.5))
    np.testing.assert_allclose(logits, 0.0, atol=1e-3)


@both
def test_every_weight_learns(options):
    model = build(options, image_size=16)
    with tf.GradientTape() as tape:
        loss = discriminator_loss(model(images()), model(1.0 - images()))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_variables])
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.abs(gradient.numpy()).max() > 0, weight.path


@both
def test_loss_and_r1_compile_to_the_values_and_gradients_of_the_plain_graph(options):
    model = build(options, image_size=16)
    weights = [weight.value for weight in model.trainable_variables]

    def step(pixels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = generator_loss(model(pixels)) + 5.0 * r1_penalty(model, pixels)
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        return [loss, *gradients]

    plain = tf.function(step)(images())
    compiled = tf.function(step, jit_compile=True)(images())
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@both
def test_r1_is_the_slope_of_the_logits(options):
    """A directional derivative along R1's own gradient, by finite differences."""
    model = build(options, image_size=16)
    pixels = images()
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        total = tf.reduce_sum(model(pixels))
    gradient = tape.gradient(total, pixels)
    step = 1e-3 / tf.norm(gradient)
    ahead, behind = (tf.reduce_sum(model(pixels + sign * step * gradient)) for sign in (1.0, -1.0))
    squared_norm = (ahead - behind) / (2.0 * step)
    # The mean of two images, and a slope in [-1, 1], is half and a quarter of the sum in [0, 1].
    assert 8 * r1_penalty(model, pixels).numpy() == pytest.approx(squared_norm.numpy(), rel=2e-2)


@both
def test_mixed_precision_gives_float32_logits_near_those_of_float32(options, bfloat16):
    mixed = build(options, image_size=16)
    keras.config.set_dtype_policy("float32")
    full = build(options, image_size=16)
    for weight, other in zip(full.variables, mixed.variables, strict=True):
        assert other.dtype == "float32"
        weight.assign(other)
    logits, expected = mixed(images()), full(images())
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max() + 0.02)
    assert np.isfinite(r1_penalty(mixed, images()).numpy())
