import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainers.vit_vqgan.discriminator import stylegan2
from trainers.vit_vqgan.discriminator.config import StyleGAN2
from trainers.vit_vqgan.discriminator.network import build


def naive_blur(x: np.ndarray, *, margin: int, stride: int) -> np.ndarray:
    """The sum over the 16 taps, position by position."""
    taps = np.array([1.0, 3.0, 3.0, 1.0]) / 8.0
    padded = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    size = (padded.shape[1] - 4) // stride + 1
    blurred = np.zeros((x.shape[0], size, size, x.shape[-1]))
    for row, column, i, j in itertools.product(range(size), range(size), range(4), range(4)):
        blurred[:, row, column] += taps[i] * taps[j] * padded[:, stride * row + i, stride * column + j]
    return blurred


@pytest.mark.parametrize(("margin", "stride"), [(2, 1), (1, 2)])
def test_blur_is_the_binomial_convolution(margin, stride):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    blurred = stylegan2.blur(tf.constant(x), margin=margin, stride=stride)
    np.testing.assert_allclose(blurred, naive_blur(x, margin=margin, stride=stride), atol=1e-6)


@pytest.mark.parametrize(("margin", "stride"), [(2, 1), (1, 2)])
def test_blur_leaves_a_constant_alone_and_takes_stripes_away(margin, stride):
    inner = np.s_[:, 2:-2, 2:-2]
    flat = stylegan2.blur(tf.ones([1, 16, 16, 1]), margin=margin, stride=stride)
    np.testing.assert_allclose(flat.numpy()[inner], 1.0, rtol=1e-6)
    stripes = tf.tile(tf.constant([1.0, -1.0])[None, None, :, None], [1, 16, 8, 1])
    np.testing.assert_allclose(
        stylegan2.blur(stripes, margin=margin, stride=stride).numpy()[inner], 0.0, atol=1e-6
    )


def test_weights_start_at_unit_variance_and_outputs_keep_that_of_the_inputs():
    layer = stylegan2.Convolution(48, 64, 3)
    assert np.std(layer.kernel.numpy()) == pytest.approx(1.0, abs=0.02)
    # Second moments: a leaky ReLU of slope s leaves (1 + s^2) / 2 of it, the gain doubles that.
    output = layer(tf.random.stateless_normal([4, 16, 16, 48], [1, 2]))
    assert np.mean(output.numpy()[:, 1:-1, 1:-1] ** 2) == pytest.approx(1.04, abs=0.08)


def test_a_residual_block_keeps_the_variance_of_what_is_smooth():
    block = stylegan2.ResidualBlock(64, 64)
    constant = tf.random.stateless_normal([64, 1, 1, 64], [1, 2]) * tf.ones([1, 16, 16, 1])
    output = block(constant).numpy()[:, 2:-2, 2:-2]
    assert np.mean(output**2) == pytest.approx(1.0, abs=0.2)


def test_channels_are_those_of_configuration_f_at_a_multiplier_of_2():
    published = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64}
    options = StyleGAN2(channel_multiplier=2.0)
    assert {size: options.channels(size) for size in published} == published
    assert StyleGAN2().channels(256) == 64


def test_minibatch_stddev_in_closed_form():
    # Two groups of two: the first differs by 2 everywhere, hence by 1 from its mean; the second not.
    x = tf.reshape(tf.constant([1.0, 3.0, 5.0, 5.0]), [4, 1, 1, 1]) * tf.ones([1, 4, 4, 6])
    result = stylegan2.minibatch_stddev(x, 2).numpy()
    assert result.shape == (4, 4, 4, 7)
    np.testing.assert_array_equal(result[..., :6], x)
    np.testing.assert_allclose(result[:2, ..., 6], 1.0, rtol=1e-6)
    np.testing.assert_allclose(result[2:, ..., 6], 0.0, atol=2e-4)


def test_minibatch_stddev_refuses_a_batch_that_is_no_multiple_of_the_group():
    with pytest.raises(ValueError, match="batch of 6 is not a multiple of minibatch_stddev 4"):
        stylegan2.minibatch_stddev(tf.zeros([6, 4, 4, 1]), 4)


@pytest.mark.parametrize("group", [0, 2])
def test_only_minibatch_stddev_lets_images_see_each_other(group):
    model = build(StyleGAN2(channel_multiplier=1 / 64, minibatch_stddev=group), image_size=16)
    first, second = tf.unstack(tf.random.stateless_uniform([2, 16, 16, 3], [1, 2]))
    among_equals, among_others = model(tf.stack([first, first]))[0], model(tf.stack([first, second]))[0]
    assert (abs(among_equals - among_others).numpy() > 1e-5) == bool(group)
