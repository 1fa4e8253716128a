"""Perceptual networks: one with a single weight, an untrained VGG16, and LPIPS where it is available."""

from pathlib import Path

import keras
import pytest
import tensorflow as tf

DATA = Path(__file__).parents[3].parent / "shared" / "data"
PHOTOS = DATA / "images" / "nips17_256" / "nips17_256_q95.zip"
LPIPS = [DATA / "weights" / name for name in ("lpips_alex", "lpips_squeeze")]

needs_lpips = pytest.mark.skipif(
    not all(path.exists() for path in (PHOTOS, *LPIPS)), reason=f"no LPIPS models and photographs in {DATA}"
)


class Scaled(tf.Module):
    """The mean over the image of (w (a - b))^2, with a weight that was left trainable."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(0.5)

    def distance(self, a, b):
        return {"how_far": tf.reduce_mean(tf.square(self.weight * (a - b)), axis=[1, 2, 3])}


def saved(folder: Path | str, *, signature: str = "distance", inputs: tuple[str, ...] = ("a", "b")) -> str:
    """Write `Scaled` as a SavedModel; return its name for `perceptual.network`."""
    module = Scaled()
    specs = [tf.TensorSpec([None, None, None, 3], name=name) for name in inputs]
    function = tf.function(lambda a, b: module.distance(a, b)).get_concrete_function(*specs)
    module.function = function
    tf.saved_model.save(module, folder, signatures={signature: function})
    return f"savedmodel:{folder}"


def untrained_vgg16(folder: Path | str) -> str:
    """Write random weights of VGG16 to a file; return its path for `perceptual.weights`."""
    path = f"{folder}/vgg16.weights.h5"
    keras.applications.VGG16(include_top=False, weights=None).save_weights(path)
    return path
