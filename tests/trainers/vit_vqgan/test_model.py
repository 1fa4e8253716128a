import numpy as np
import pytest
import tensorflow as tf

from trainers.training.config import Transformer
from trainers.vit_vqgan.config import Codebook, Model
from trainers.vit_vqgan.model import ViTVQGAN

SMALL = Transformer(blocks=1, heads=2, width=16, hidden=32)
LARGE = Transformer(blocks=2, heads=3, width=24, hidden=32)


def model(**options) -> ViTVQGAN:
    merged = {"patch_size": 4, "encoder": SMALL, "decoder": LARGE, "codebook": Codebook(size=32, dim=4)}
    return ViTVQGAN(Model(**{**merged, **options}), image_size=16, seed=0)


def pictures(count: int = 2) -> tf.Tensor:
    return tf.random.stateless_uniform([count, 16, 16, 3], seed=[0, 0])


@pytest.mark.parametrize("channels", [3, 6])
def test_shapes_of_an_asymmetric_pair(channels):
    vit_vqgan = model(output_channels=channels)
    distribution, quantized = vit_vqgan(pictures())
    assert distribution.mu.shape == distribution.log_scale.shape == (2, 16, 16, 3)
    assert quantized.tokens.shape == (2, 16)
    assert quantized.codes.shape == (2, 16, 4)


def test_three_channels_fix_the_scale_at_one():
    distribution, _ = model(output_channels=3)(pictures())
    np.testing.assert_array_equal(distribution.log_scale, 0.0)


def test_decoding_the_tokens_gives_the_reconstruction():
    vit_vqgan = model()
    distribution, quantized = vit_vqgan(pictures())
    pixels, log_scale = vit_vqgan.decode(vit_vqgan.encode(pictures()))
    np.testing.assert_array_equal(vit_vqgan.encode(pictures()), quantized.tokens)
    np.testing.assert_allclose(pixels, tf.clip_by_value(distribution.pixels(), 0, 1), atol=1e-5)
    np.testing.assert_allclose(log_scale, distribution.log_scale, atol=1e-5)


def test_a_patch_comes_out_where_it_went_in():
    vit_vqgan = model(output_channels=3)
    # Towers that do nothing: what is left is how patches are taken and put back.
    vit_vqgan.encoder.tower = vit_vqgan.decoder.tower = vit_vqgan.factorize = lambda patches: patches
    patches = vit_vqgan._latents(pictures())
    np.testing.assert_allclose(
        tf.reshape(patches[0, 6], [4, 4, 3]), 2 * pictures()[0, 4:8, 8:12] - 1, atol=1e-6
    )  # place 6 of a 4 x 4 grid is row 1, column 2
    np.testing.assert_allclose(vit_vqgan._distribution(patches).mu, 2 * pictures() - 1, atol=1e-6)


def test_positions_are_all_that_tells_places_apart():
    tower = model().encoder.tower
    order = tf.random.experimental.stateless_shuffle(tf.range(16), seed=[0, 1])
    x = tf.random.stateless_normal([1, 16, 48], seed=[0, 0])

    def differs() -> float:
        first = tower(tf.gather(x, order, axis=1))
        return float(np.abs(first - tf.gather(tower(x), order, axis=1)).max())

    assert differs() > 1e-4
    tower.positions.assign(tf.zeros_like(tower.positions))
    assert differs() < 1e-5


def test_the_decoder_starts_at_unit_variance_so_that_codes_are_not_drowned():
    vit_vqgan = model(
        codebook=Codebook(size=32, dim=8), decoder=Transformer(blocks=1, heads=1, width=512, hidden=8)
    )
    codes = tf.math.l2_normalize(tf.random.stateless_normal([1, 16, 8], seed=[0, 0]), axis=-1)
    assert np.std(vit_vqgan.decoder.tower.project(codes)) == pytest.approx(1.0, rel=0.1)


def test_one_picture_is_learned_by_heart():
    # The quickest sign of a broken tokenizer: gradients reach every weight and the picture comes back.
    import keras

    vit_vqgan = model(codebook=Codebook(size=32, dim=8, revive_below=0.2))
    optimizer = keras.optimizers.Adam(3e-3)
    optimizer.build(vit_vqgan.trainable_variables)
    yy, xx = np.mgrid[0:16, 0:16] / 15.0
    picture = tf.constant(np.stack([yy, xx, (yy > xx).astype(float)], axis=-1)[None], tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            distribution, quantized = vit_vqgan(picture, training=True)
            error = tf.reduce_mean(tf.square(distribution.pixels() - picture))
            loss = error + quantized.loss
        gradients = tape.gradient(loss, vit_vqgan.trainable_variables)
        optimizer.apply(gradients, vit_vqgan.trainable_variables)
        return error, gradients

    first, gradients = step()
    silent = [v.path for v, g in zip(vit_vqgan.trainable_variables, gradients, strict=True) if g is None]
    assert not silent
    for _ in range(300):
        error, _ = step()
    assert -10 * np.log10(error) > 25.0 > -10 * np.log10(first)
