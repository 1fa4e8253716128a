import itertools

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from trainers.vit_vqgan import discriminators
from trainers.vit_vqgan.config import AnyDiscriminator, PatchGAN, StyleGAN2
from trainers.vit_vqgan.discriminators import build_discriminator
from trainers.vit_vqgan.losses import discriminator_loss, generator_loss, r1_penalty


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    keras.utils.set_random_seed(1)


SMALL = [
    StyleGAN2(channel_multiplier=1 / 128, minibatch_stddev=2),
    PatchGAN(channels=4, layers=2),
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
def test_logits_are_one_per_image_or_one_per_patch(options, size):
    logits = build_discriminator(options, image_size=size)(images(size=size))
    assert logits.shape == ((2, 1) if options.network == "stylegan2" else (2, size // 4, size // 4, 1))
    assert logits.dtype == tf.float32


def test_stylegan2_centres_pixels_in_float32_under_any_policy(bfloat16, monkeypatch):
    network = build_discriminator(SMALL[0], image_size=16)
    network(images())
    seen = []
    monkeypatch.setattr(network, "from_rgb", Watched(network.from_rgb, seen))
    network(images())
    assert seen[0] == tf.float32


class Watched:
    """A layer, and the dtypes of what it is given."""

    def __init__(self, layer, seen):
        self.layer, self.seen = layer, seen

    def __call__(self, x):
        self.seen.append(x.dtype)
        return self.layer(x)


@pytest.mark.parametrize("size", [128, 256, 512])
def test_stylegan2_accepts_large_images(size):
    options = StyleGAN2(channel_multiplier=0.01, max_channels=8)
    network = build_discriminator(options, image_size=size)
    assert network(images(batch=1, size=size)).shape == (1, 1)
    assert len(network.blocks) == np.log2(size // 4)


def test_unsupported_image_size_is_refused():
    with pytest.raises(ValueError, match=r"^image size must be one of 16, .*512 for .* stylegan2, got 48$"):
        build_discriminator(StyleGAN2(), image_size=48)
    with pytest.raises(ValueError, match=r"^image size must be a multiple of 8 .* patchgan, got 20$"):
        build_discriminator(PatchGAN(), image_size=20)


def test_discriminator_is_chosen_by_network_name():
    adapter = pydantic.TypeAdapter(AnyDiscriminator)
    assert isinstance(adapter.validate_python({"network": "patchgan", "layers": 2}), PatchGAN)
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python({"network": "stylegan2", "layers": 2})


@both
def test_grey_image_has_zero_logits(options):
    """Grey is centred to 0, and all biases start at 0."""
    logits = build_discriminator(options, image_size=16)(tf.fill([2, 16, 16, 3], 0.5))
    np.testing.assert_allclose(logits, 0.0, atol=1e-3)


@both
def test_every_weight_has_a_nonzero_gradient(options):
    model = build_discriminator(options, image_size=16)
    with tf.GradientTape() as tape:
        loss = discriminator_loss(model(images()), model(1.0 - images()))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_variables])
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.abs(gradient.numpy()).max() > 0, weight.path


@pytest.mark.slow
@both
def test_loss_and_r1_gradients_match_under_xla(options):
    model = build_discriminator(options, image_size=16)
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
def test_r1_matches_finite_differences(options):
    """Compare with a directional derivative along R1's gradient, by finite differences."""
    model = build_discriminator(options, image_size=16)
    pixels = images()
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        total = tf.reduce_sum(model(pixels))
    gradient = tape.gradient(total, pixels)
    step = 1e-3 / tf.norm(gradient)
    ahead, behind = (tf.reduce_sum(model(pixels + sign * step * gradient)) for sign in (1.0, -1.0))
    squared_norm = (ahead - behind) / (2.0 * step)
    # R1 is a mean over two images (a half) of squared gradients in [-1, 1] (a quarter of those in [0, 1]).
    assert 8 * r1_penalty(model, pixels).numpy() == pytest.approx(squared_norm.numpy(), rel=2e-2)


@both
def test_bfloat16_logits_are_float32_and_close(options, bfloat16):
    mixed = build_discriminator(options, image_size=16)
    keras.config.set_dtype_policy("float32")
    full = build_discriminator(options, image_size=16)
    for weight, other in zip(full.variables, mixed.variables, strict=True):
        assert other.dtype == "float32"
        weight.assign(other)
    logits, expected = mixed(images()), full(images())
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max() + 0.02)
    assert np.isfinite(r1_penalty(mixed, images()).numpy())


def naive_blur(x: np.ndarray, *, margin: int, stride: int) -> np.ndarray:
    """Compute the blur as a sum over 16 taps at each position."""
    taps = np.array([1.0, 3.0, 3.0, 1.0]) / 8.0
    padded = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    size = (padded.shape[1] - 4) // stride + 1
    blurred = np.zeros((x.shape[0], size, size, x.shape[-1]))
    for row, column, i, j in itertools.product(range(size), range(size), range(4), range(4)):
        blurred[:, row, column] += taps[i] * taps[j] * padded[:, stride * row + i, stride * column + j]
    return blurred


@pytest.mark.parametrize(("margin", "stride"), [(2, 1), (1, 2)])
def test_blur_equals_the_binomial_convolution(margin, stride):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    blurred = discriminators.blur(tf.constant(x), margin=margin, stride=stride)
    np.testing.assert_allclose(blurred, naive_blur(x, margin=margin, stride=stride), atol=1e-6)


@pytest.mark.parametrize(("margin", "stride"), [(2, 1), (1, 2)])
def test_blur_keeps_constants_and_removes_stripes(margin, stride):
    inner = np.s_[:, 2:-2, 2:-2]
    flat = discriminators.blur(tf.ones([1, 16, 16, 1]), margin=margin, stride=stride)
    np.testing.assert_allclose(flat.numpy()[inner], 1.0, rtol=1e-6)
    stripes = tf.tile(tf.constant([1.0, -1.0])[None, None, :, None], [1, 16, 8, 1])
    np.testing.assert_allclose(
        discriminators.blur(stripes, margin=margin, stride=stride).numpy()[inner], 0.0, atol=1e-6
    )


def test_convolution_weights_and_outputs_start_at_unit_variance():
    layer = discriminators.Convolution(48, 64, 3)
    assert np.std(layer.kernel.numpy()) == pytest.approx(1.0, abs=0.02)
    # The second moment: a leaky ReLU of slope s keeps (1 + s^2) / 2 of it, and the gain doubles that.
    output = layer(tf.random.stateless_normal([4, 16, 16, 48], [1, 2]))
    assert np.mean(output.numpy()[:, 1:-1, 1:-1] ** 2) == pytest.approx(1.04, abs=0.08)


def test_residual_block_keeps_the_variance_of_constant_images():
    block = discriminators.ResidualBlock(64, 64)
    constant = tf.random.stateless_normal([64, 1, 1, 64], [1, 2]) * tf.ones([1, 16, 16, 1])
    output = block(constant).numpy()[:, 2:-2, 2:-2]
    assert np.mean(output**2) == pytest.approx(1.0, abs=0.2)


def convolved(x: np.ndarray, kernel: np.ndarray, *, stride: int = 1, margin: int) -> np.ndarray:
    """Cross-correlation of [B, H, W, C] padded with `margin` zeros, tap by tap."""
    x = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    size = len(kernel)
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    return sum(
        x[:, down : down + stride * rows : stride, across : across + stride * columns : stride]
        @ kernel[down, across]
        for down in range(size)
        for across in range(size)
    )


def blurred(x: np.ndarray, *, margin: int, stride: int = 1) -> np.ndarray:
    taps = np.array([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = np.einsum("i,j,cd->ijcd", taps, taps, np.eye(x.shape[-1]))
    return convolved(x, kernel, stride=stride, margin=margin)


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def equalized(layer, gain: float) -> tuple[np.ndarray, np.ndarray]:
    kernel = layer.kernel.numpy()
    bias = np.zeros(kernel.shape[-1]) if layer.bias is None else layer.bias.numpy()
    return gain * kernel / np.sqrt(np.prod(kernel.shape[:3])), gain * bias


def test_stylegan2_matches_its_definition_in_numpy():
    """Karras et al. 2020: figure 7 right, in float64 and with convolutions written out."""
    model = build_discriminator(StyleGAN2(channel_multiplier=1 / 128), image_size=16)
    for index, weight in enumerate(model.trainable_variables):
        weight.assign(tf.random.stateless_normal(weight.shape, [3, index]))
    pixels = tf.random.stateless_uniform([3, 16, 16, 3], [1, 2])

    root = np.sqrt(2.0)
    kernel, bias = equalized(model.from_rgb, root)
    x = leaky(convolved(2.0 * pixels.numpy().astype(float) - 1.0, kernel, margin=0) + bias)
    for block in model.blocks:
        kernel, bias = equalized(block.convolution, root)
        inner = leaky(convolved(x, kernel, margin=1) + bias)
        kernel, bias = equalized(block.down, root)
        inner = leaky(convolved(blurred(inner, margin=2), kernel, stride=2, margin=0) + bias)
        kernel, _ = equalized(block.skip, 1.0)
        skipped = convolved(blurred(x, margin=1, stride=2), kernel, margin=0)
        x = (inner + skipped) / root
    for layer, margin in ((model.convolution, 1), (model.hidden, 0)):
        kernel, bias = equalized(layer, root)
        x = leaky(convolved(x, kernel, margin=margin) + bias)
    kernel, bias = equalized(model.logit, 1.0)
    expected = convolved(x, kernel, margin=0) + bias
    np.testing.assert_allclose(model(pixels), expected.reshape(3, 1), rtol=2e-4)


def test_patchgan_matches_its_definition_in_numpy():
    """Isola et al. 2017, with group norm in place of batch norm."""
    model = build_discriminator(PatchGAN(channels=4, layers=2), image_size=16)
    for index, weight in enumerate(model.trainable_variables):
        weight.assign(tf.random.stateless_normal(weight.shape, [3, index]))
    pixels = tf.random.stateless_uniform([2, 16, 16, 3], [1, 2])

    def same(layer, x):
        stride = layer.strides[0]
        # TensorFlow pads 1 and 2 zeros at stride 1, 1 and 1 at stride 2.
        x = np.pad(x, [(0, 0), (1, 3 - stride), (1, 3 - stride), (0, 0)])
        bias = 0.0 if layer.bias is None else layer.bias.numpy()
        return convolved(x, layer.kernel.numpy(), stride=stride, margin=0) + bias

    first, *others = model.convolutions
    x = leaky(same(first, 2.0 * pixels.numpy().astype(float) - 1.0))
    for layer, norm in zip(others, model.norms, strict=True):
        x = same(layer, x)
        groups = x.reshape(*x.shape[:3], norm.groups, -1)
        mean = groups.mean(axis=(1, 2, 4), keepdims=True)
        variance = groups.var(axis=(1, 2, 4), keepdims=True)
        x = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        x = leaky(x * norm.gamma.numpy() + norm.beta.numpy())
    np.testing.assert_allclose(model(pixels), same(model.logits, x), rtol=1e-3, atol=1e-4)


def test_channel_multiplier_2_gives_the_channels_of_configuration_f():
    published = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64}
    options = StyleGAN2(channel_multiplier=2.0)
    assert {size: options.channels(size) for size in published} == published
    assert StyleGAN2().channels(256) == 64


def test_minibatch_stddev_matches_closed_form():
    # Two groups of two: images of the first differ by 2, hence by 1 from their mean; the second's are equal.
    x = tf.reshape(tf.constant([1.0, 3.0, 5.0, 5.0]), [4, 1, 1, 1]) * tf.ones([1, 4, 4, 6])
    result = discriminators.minibatch_stddev(x, 2).numpy()
    assert result.shape == (4, 4, 4, 7)
    np.testing.assert_array_equal(result[..., :6], x)
    np.testing.assert_allclose(result[:2, ..., 6], 1.0, rtol=1e-6)
    np.testing.assert_allclose(result[2:, ..., 6], 0.0, atol=2e-4)


def test_minibatch_stddev_refuses_an_indivisible_batch():
    with pytest.raises(ValueError, match="batch size must be a multiple of minibatch_stddev 4, got 6"):
        discriminators.minibatch_stddev(tf.zeros([6, 4, 4, 1]), 4)


@pytest.mark.parametrize("group", [0, 2])
def test_logits_depend_on_other_images_only_with_minibatch_stddev(group):
    model = build_discriminator(StyleGAN2(channel_multiplier=1 / 64, minibatch_stddev=group), image_size=16)
    first, second = tf.unstack(tf.random.stateless_uniform([2, 16, 16, 3], [1, 2]))
    among_equals, among_others = model(tf.stack([first, first]))[0], model(tf.stack([first, second]))[0]
    assert (abs(among_equals - among_others).numpy() > 1e-5) == bool(group)


def test_patchgan_logits_do_not_depend_on_other_images():
    model = build_discriminator(PatchGAN(channels=8, layers=2), image_size=16)
    pixels = tf.random.stateless_uniform([3, 16, 16, 3], [1, 2])
    np.testing.assert_allclose(model(pixels)[:1], model(pixels[:1]), atol=1e-5)


def test_patchgan_of_three_layers_has_a_receptive_field_of_70_pixels(monkeypatch):
    # Group norm depends on the whole image; without it, a logit depends on its patch alone.
    monkeypatch.setattr(keras.layers.GroupNormalization, "call", lambda self, x: x)
    model = build_discriminator(PatchGAN(channels=4), image_size=128)
    pixels = tf.random.stateless_uniform([1, 128, 128, 3], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logit = model(pixels)[0, 8, 8, 0]
    rows, columns = np.nonzero(np.abs(tape.gradient(logit, pixels).numpy()[0]).max(axis=-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (70, 70)


def test_patchgan_channels_double_up_to_eight_times_the_first():
    model = build_discriminator(PatchGAN(channels=4, layers=5), image_size=64)
    assert [layer.filters for layer in model.convolutions] == [4, 8, 16, 32, 32, 32]
