import math

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.precision import bfloat16
from trainers.training.config import Memory, Transformer
from trainers.vit_vqgan.config import VQ, Convolutional, Model
from trainers.vit_vqgan.model import ViTVQGAN

pytestmark = pytest.mark.slow

SMALL = Transformer(blocks=1, heads=2, width=16, hidden=32)
LARGE = Transformer(blocks=2, heads=3, width=24, hidden=32)
CONVOLUTIONS = Convolutional(channels=8, multipliers=(1, 1, 2), residual_blocks=1)


def model(**options) -> ViTVQGAN:
    merged = {"patch_size": 4, "encoder": SMALL, "decoder": LARGE, "codebook": VQ(size=32, dim=4)}
    return ViTVQGAN(Model(**{**merged, **options}), image_size=16, seed=0)


def pictures(count: int = 2) -> tf.Tensor:
    return tf.random.stateless_uniform([count, 16, 16, 3], seed=[0, 0])


@pytest.mark.parametrize("channels", [3, 6])
def test_asymmetric_encoder_and_decoder_have_the_expected_shapes(channels):
    vit_vqgan = model(output_channels=channels)
    distribution, quantized = vit_vqgan(pictures())
    assert distribution.mu.shape == distribution.log_scale.shape == (2, 16, 16, 3)
    assert quantized.tokens.shape == (2, 16)
    assert quantized.codes.shape == (2, 16, 4)


def test_three_output_channels_fix_the_scale_at_one():
    distribution, _ = model(output_channels=3)(pictures())
    np.testing.assert_array_equal(distribution.log_scale, 0.0)


def test_decoded_tokens_equal_the_reconstruction():
    vit_vqgan = model()
    distribution, quantized = vit_vqgan(pictures())
    pixels, mu, log_scale = vit_vqgan.decode(vit_vqgan.encode(pictures()))
    np.testing.assert_array_equal(vit_vqgan.encode(pictures()), quantized.tokens)
    np.testing.assert_allclose(pixels, tf.clip_by_value(distribution.pixels(), 0, 1), atol=1e-5)
    np.testing.assert_allclose(mu, distribution.mu, atol=1e-5)
    np.testing.assert_allclose(log_scale, distribution.log_scale, atol=1e-5)


def test_patches_keep_their_position():
    vit_vqgan = model(output_channels=3)
    # Identity towers: only the splitting into patches and its inverse are left.
    for layer, name in ((vit_vqgan.encoder, "tower"), (vit_vqgan.decoder, "tower"), (vit_vqgan, "factorize")):
        setattr(layer, name, lambda patches, **options: patches)
    patches = vit_vqgan._latents(pictures())
    np.testing.assert_allclose(
        tf.reshape(patches[0, 6], [4, 4, 3]), 2 * pictures()[0, 4:8, 8:12] - 1, atol=1e-6
    )  # position 6 of a 4 x 4 grid is row 1, column 2
    np.testing.assert_allclose(vit_vqgan._distribution(patches).mu, 2 * pictures() - 1, atol=1e-6)


def test_only_position_embeddings_distinguish_positions():
    tower = model().encoder.tower
    order = tf.random.experimental.stateless_shuffle(tf.range(16), seed=[0, 1])
    x = tf.random.stateless_normal([1, 16, 48], seed=[0, 0])

    def differs() -> float:
        first = tower(tf.gather(x, order, axis=1))
        return float(np.abs(first - tf.gather(tower(x), order, axis=1)).max())

    assert differs() > 1e-4
    tower.positions.assign(tf.zeros_like(tower.positions))
    assert differs() < 1e-5


def test_decoder_input_projection_starts_at_unit_variance():
    vit_vqgan = model(
        codebook=VQ(size=32, dim=8), decoder=Transformer(blocks=1, heads=1, width=512, hidden=8)
    )
    codes = tf.math.l2_normalize(tf.random.stateless_normal([1, 16, 8], seed=[0, 0]), axis=-1)
    assert np.std(vit_vqgan.decoder.tower.project(codes)) == pytest.approx(1.0, rel=0.1)


def test_encoder_input_projection_keeps_the_variance_of_patches():
    vit_vqgan = model(encoder=Transformer(blocks=1, heads=1, width=512, hidden=8))
    patches = tf.random.stateless_normal([1, 16, 48], seed=[0, 0])
    patches *= math.sqrt(48) / tf.norm(patches, axis=-1, keepdims=True)
    assert np.std(vit_vqgan.encoder.tower.project(patches)) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_bfloat16_outputs_are_float32_and_close(
    gradient_checkpointing,
):
    exact = model()
    with bfloat16():
        options = Model(patch_size=4, encoder=SMALL, decoder=LARGE, codebook=VQ(size=32, dim=4))
        rough = ViTVQGAN(options, image_size=16, seed=0, memory=Memory(gradient_checkpointing))
    for variable, value in zip(rough.variables, exact.variables, strict=True):
        variable.assign(value)
    codes = exact(pictures())[1].codes
    distribution, quantized = rough(pictures(), training=True)
    assert {x.dtype for x in (*distribution, quantized.codes, quantized.loss)} == {tf.float32}
    np.testing.assert_allclose(rough.decoder(codes), exact.decoder(codes), atol=0.1)
    assert np.std(exact.decoder(codes)) > 0.3


@pytest.mark.parametrize("tower", [SMALL, CONVOLUTIONS], ids=["transformer", "convolutions"])
def test_latents_and_decoder_outputs_are_not_rounded_to_bfloat16(tower):
    with bfloat16():
        rough = model(encoder=tower, decoder=tower)
    _, quantized = rough(pictures())
    # Training and serving give the same tokens for the same pixels.
    np.testing.assert_array_equal(quantized.tokens, rough.encode(pictures()))
    for output in (rough._latents(pictures()), rough.decoder(quantized.codes)):
        assert output.dtype == tf.float32
        rounded = tf.cast(tf.cast(output, tf.bfloat16), tf.float32)
        assert np.mean(output == rounded) < 0.1
