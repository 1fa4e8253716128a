import keras
import numpy as np
import tensorflow as tf

from trainers.vit_vqgan.discriminator.config import PatchGAN
from trainers.vit_vqgan.discriminator.network import build


def test_logits_of_one_image_do_not_depend_on_the_others():
    model = build(PatchGAN(channels=8, layers=2), image_size=16)
    pixels = tf.random.stateless_uniform([3, 16, 16, 3], [1, 2])
    np.testing.assert_allclose(model(pixels)[:1], model(pixels[:1]), atol=1e-5)


def test_with_three_layers_a_logit_judges_70_pixels_each_way(monkeypatch):
    # Group norm looks at the whole image; what is left is the patch.
    monkeypatch.setattr(keras.layers.GroupNormalization, "call", lambda self, x: x)
    model = build(PatchGAN(channels=4), image_size=128)
    pixels = tf.random.stateless_uniform([1, 128, 128, 3], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logit = model(pixels)[0, 8, 8, 0]
    rows, columns = np.nonzero(np.abs(tape.gradient(logit, pixels).numpy()[0]).max(axis=-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (70, 70)


def test_channels_double_up_to_eight_times_the_first():
    model = build(PatchGAN(channels=4, layers=5), image_size=64)
    assert [layer.filters for layer in model.convolutions] == [4, 8, 16, 32, 32, 32]
