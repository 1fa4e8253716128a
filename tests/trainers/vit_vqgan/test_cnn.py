import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from tests.trainers.precision import bfloat16
from trainers.vit_vqgan.cnn import Attention, Decoder, Encoder, NormSwish, Residual
from trainers.vit_vqgan.config import Convolutional

pytestmark = pytest.mark.slow

SMALL = Convolutional(channels=16, multipliers=(1, 2), residual_blocks=1)


def pictures(count: int = 2, side: int = 32) -> tf.Tensor:
    return tf.random.stateless_uniform([count, side, side, 3], seed=[0, 0], minval=-1.0)


@pytest.mark.parametrize(
    ("multipliers", "downsampling"), [((1, 2, 2, 4), 8), ((1, 1, 2, 2, 4), 16), ((1, 2), 2), ((1,), 1)]
)
def test_each_multiplier_after_the_first_halves_the_side(multipliers, downsampling):
    options = Convolutional(channels=4, multipliers=multipliers, residual_blocks=1)
    assert options.downsampling == downsampling
    side = 32 // downsampling
    latents = Encoder(options, units=6)(pictures())
    assert latents.shape == (2, side**2, 6)
    assert Decoder(options, channels_out=5, side=side, input_scale=1.0)(latents).shape == (2, 32, 32, 5)


def convolution(inputs: int, outputs: int, kernel: int = 3) -> int:
    return kernel**2 * inputs * outputs + outputs


def residual(inputs: int, outputs: int) -> int:
    norms = 2 * inputs + 2 * outputs
    shortcut = convolution(inputs, outputs, kernel=1) if inputs != outputs else 0
    return norms + convolution(inputs, outputs) + convolution(outputs, outputs) + shortcut


def attention(width: int) -> int:
    return 2 * width + 4 * convolution(width, width, kernel=1)


def middle(width: int) -> int:
    return 2 * residual(width, width) + attention(width)


def encoder_parameters(options: Convolutional, units: int) -> int:
    total, width = convolution(3, options.widths[0]), options.widths[0]
    for wider in options.widths:
        total += residual(width, wider) + (options.residual_blocks - 1) * residual(wider, wider)
        width = wider
    total += sum(convolution(finer, finer) for finer in options.widths[:-1])
    return total + options.residual_blocks * attention(width) + middle(width) + head(width, units)


def decoder_parameters(options: Convolutional, dim: int, channels_out: int) -> int:
    width = options.widths[-1]
    total = convolution(dim, width) + middle(width) + (options.residual_blocks + 1) * attention(width)
    for narrower in reversed(options.widths):
        total += residual(width, narrower) + options.residual_blocks * residual(narrower, narrower)
        width = narrower
    total += sum(convolution(coarser, coarser) for coarser in options.widths[1:])
    return total + head(width, channels_out)


def head(width: int, units: int) -> int:
    return 2 * width + convolution(width, units)


def test_parameter_count_matches_closed_form():
    options = Convolutional(channels=32)
    encoder, decoder = Encoder(options, units=10), Decoder(options, channels_out=6, side=2, input_scale=1.0)
    decoder(encoder(pictures(1, 16)))
    assert encoder.count_params() == encoder_parameters(options, 10)
    assert decoder.count_params() == decoder_parameters(options, 10, 6)


def test_closed_form_matches_the_counts_of_stable_diffusion():
    # Stable Diffusion's first stage has wider coarse blocks, and attention only in the middle.
    options = Convolutional(multipliers=(1, 2, 4, 4))
    assert encoder_parameters(options, 8) - 2 * attention(512) == 34_163_592
    assert decoder_parameters(options, 4, 3) - 3 * attention(512) == 49_490_179


def test_changed_position_affects_only_nearby_latents_and_pixels():
    # Row 1, column 5 of an 8 x 8 grid is position 13 in raster order. Attention and the norms of residual
    # blocks and heads depend on the whole image; the remaining convolutions reach 2 positions around.
    options = Convolutional(channels=8, multipliers=(1, 1), residual_blocks=1)
    encoder, decoder = Encoder(options, units=4), Decoder(options, channels_out=3, side=8, input_scale=1.0)
    for tower in (encoder, decoder):
        tower.stages = [s for s in tower.stages if not isinstance(s, Residual | Attention | NormSwish)]
    row, column = np.indices([8, 8])
    around = (abs(row - 1) <= 2) & (abs(column - 5) <= 2)

    pixels = pictures(1, 16)
    other = pixels.numpy()
    other[:, 2:4, 10:12] = 1.0
    latents = encoder(pixels)
    change = np.reshape(np.abs(encoder(other) - latents).sum(-1), [8, 8])
    assert change[1, 5] > 0
    np.testing.assert_array_equal(change[~around], 0.0)

    codes = latents * (1 - tf.one_hot([13], 64)[..., tf.newaxis])
    change = tf.nn.space_to_depth(tf.abs(decoder(codes) - decoder(latents)), 2).numpy().sum(-1)[0]
    assert change[1, 5] > 0
    np.testing.assert_array_equal(change[~around], 0.0)


def test_first_decoder_layer_starts_at_unit_variance():
    codes = tf.math.l2_normalize(tf.random.stateless_normal([1, 256, 8], seed=[0, 0]), axis=-1)
    options = Convolutional(channels=64, multipliers=(1, 4))
    for scale in (1.0, 5.0):
        decoder = Decoder(options, channels_out=3, side=16, input_scale=scale)
        first = decoder.stages[0](tf.reshape(scale * codes, [1, 16, 16, 8]))
        assert np.std(first[:, 1:-1, 1:-1]) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (48, 24), (8, 8), (37, 1)])
def test_group_count_is_the_largest_divisor_of_channels_up_to_32(channels, groups):
    # Normalized over its own channels, each group has mean 0 and variance 1 before the swish.
    layer = NormSwish()
    x = 3.0 + tf.random.stateless_normal([2, 8, 8, channels], seed=[0, 0]) * tf.range(
        1.0, channels + 1.0, dtype=tf.float32
    )
    layer(x)
    normed = layer.norm(x).numpy().reshape(2, 64, groups, channels // groups)
    np.testing.assert_allclose(normed.mean(axis=(1, 3)), 0.0, atol=1e-4)
    np.testing.assert_allclose(normed.var(axis=(1, 3)), 1.0, atol=1e-3)


def test_group_norm_is_computed_in_float32_under_bfloat16():
    x = tf.cast(tf.random.stateless_normal([1, 32, 32, 32], seed=[0, 0], mean=30.0), tf.bfloat16)
    exact = NormSwish()(tf.cast(x, tf.float32))
    with bfloat16():
        half = NormSwish()(x)
    assert half.dtype == tf.bfloat16
    # Only the result is rounded: bfloat16 keeps 8 bits.
    np.testing.assert_allclose(tf.cast(half, tf.float32), exact, rtol=2**-6, atol=2**-8)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Encoder(SMALL, units=4), (1, 16, 16, 3)),
        (lambda: Decoder(SMALL, channels_out=3, side=8, input_scale=1.0), (1, 64, 4)),
    ],
    ids=["encoder", "decoder"],
)
def test_gradients_reach_every_weight_and_match_under_xla(make, shape):
    tower = make()
    x = tf.random.stateless_normal(shape, seed=[0, 0])
    tower(x)

    def both(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tower(x)))
        return loss, tape.gradient(loss, tower.trainable_variables)

    loss, gradients = both(x)
    named = list(zip(tower.trainable_variables, gradients, strict=True))
    assert not [weight.path for weight, gradient in named if gradient is None]
    assert not [weight.path for weight, gradient in named if weight.name == "kernel" and not np.any(gradient)]

    compiled_loss, compiled = tf.function(both, jit_compile=True)(x)
    np.testing.assert_allclose(compiled_loss, loss, rtol=1e-4)
    for plain, xla in zip(gradients, compiled, strict=True):
        np.testing.assert_allclose(plain, xla, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_cnn_overfits_one_image():
    keras.utils.set_random_seed(0)
    encoder, decoder = Encoder(SMALL, units=8), Decoder(SMALL, channels_out=3, side=4, input_scale=1.0)
    yy, xx = np.mgrid[0:8, 0:8] / 3.5 - 1.0
    picture = tf.constant(np.stack([yy, xx, np.sign(yy - xx)], axis=-1)[None], tf.float32)
    decoder(encoder(picture))
    weights = encoder.trainable_variables + decoder.trainable_variables

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(decoder(encoder(picture)) - picture))
        for weight, gradient in zip(weights, tape.gradient(error, weights), strict=True):
            weight.assign_sub(0.1 * gradient)
        return error

    errors = [float(step()) for _ in range(50)]
    assert errors[-1] < 0.02 < errors[0]


@pytest.mark.parametrize("multipliers", [(), (1, 0)])
def test_invalid_multipliers_are_refused(multipliers):
    with pytest.raises(pydantic.ValidationError, match="multipliers"):
        Convolutional(multipliers=multipliers)
