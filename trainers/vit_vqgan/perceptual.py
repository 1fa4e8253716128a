"""Perceptual distances: VGG16's features (Zhang et al. 2018, arXiv:1801.03924), or a SavedModel."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from serving.wire.errors import one_line
from trainers.training.errors import TrainingError
from trainers.vit_vqgan.config import VGG16_SMALLEST_SIDE, Perceptual

# Pixels float32 [B, S, S, 3] in about [0, 1], twice, to how far apart they are, float32 [B].
Distance = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3: keras.applications' layers end with their ReLU.
VGG16_LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
VGG16_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
# Python waits for a silent server as long as the kernel does, which is minutes.
DOWNLOAD_TIMEOUT_SECONDS = 10.0


def load_distance(options: Perceptual) -> Distance:
    """The distance that the configuration names, its network frozen.

    Under a strategy, load it in the strategy's scope: each device then has its own copy of VGG16.

    Raises:
      TrainingError: the weights or the SavedModel cannot be had.
    """
    return _savedmodel(options.savedmodel) if options.savedmodel else _vgg16(options.weights)


def unit_normalized(features_a: Sequence[tf.Tensor], features_b: Sequence[tf.Tensor]) -> tf.Tensor:
    """How far apart the features of two images are, float32 [B].

    Both hold one [B, H_l, W_l, C_l] for each layer l. With u the features at a place divided by their
    norm over channels, this is LPIPS (equation 1 of Zhang et al.) with every learned weight at 1,

        d(a, b) = sum_l 1 / (H_l W_l) sum_hw ||u_a - u_b||^2,

    a mean over places and a sum over channels and layers. As ||u|| = 1, the square is 2 - 2 u_a . u_b: a
    cosine distance, 0 to 2 after a ReLU, so that five layers give 0 to 10. The gradient in b,
    2 (u_b - u_a) projected off u_b and divided by the norm, is 0 where a = b; where all channels are
    silent there is no norm, u is 0, and a norm is taken as 1e-6 at least to keep the division finite.
    """
    layers = zip(features_a, features_b, strict=True)
    return tf.add_n([tf.reduce_mean(_squared_distance(a, b), axis=[1, 2]) for a, b in layers])


def _squared_distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Features [B, H, W, C] to the squared distance of their directions, float32 [B, H, W]."""
    a, b = (tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1, epsilon=1e-12) for x in (a, b))
    return tf.reduce_sum(tf.square(a - b), axis=-1)


def _vgg16(weights: str | None) -> Distance:
    network = _vgg16_from_file(weights) if weights else _vgg16_from_cache()
    network.trainable = False
    features = keras.Model(network.input, [network.get_layer(name).output for name in VGG16_LAYERS])

    def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        side = min(a.shape[1:3])
        if side < VGG16_SMALLEST_SIDE:
            raise TrainingError(
                f"perceptual network vgg16 sees images of {VGG16_SMALLEST_SIDE} pixels or more, not of {side}"
            )
        # One by one: a holds no weights, so nothing of its pass is kept for the way back.
        return unit_normalized(*(features(_vgg16_input(pixels), training=False) for pixels in (a, b)))

    return distance


def _vgg16_input(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels in [0, 1] as VGG16 was trained on them: 0..255, BGR, ImageNet's mean at 0."""
    return keras.applications.vgg16.preprocess_input(255.0 * pixels)


def _vgg16_from_file(path: str) -> keras.Model:
    if not tf.io.gfile.exists(path):
        raise TrainingError(f"perceptual weights {path!r}: there is no such file")
    try:
        return _frozen_vgg16(path)
    except (ValueError, OSError, KeyError) as error:
        raise TrainingError(
            f"perceptual weights {path!r} are not VGG16's without its top, .h5 or .weights.h5 as "
            f"keras.applications keeps them: {one_line(error)}"
        ) from error


def _vgg16_from_cache() -> keras.Model:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        return _frozen_vgg16("imagenet")
    except Exception as error:  # Keras raises nothing narrower where a download fails.
        raise TrainingError(
            f"perceptual network vgg16: its weights cannot be downloaded ({one_line(error)}); "
            f"put {VGG16_FILE} into ~/.keras/models, or name the file in `weights`"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _frozen_vgg16(weights: str) -> keras.Model:
    # Keras' own `trainable` comes too late: a tape would still watch the variables below.
    with tf.variable_creator_scope(_untrained):
        return keras.applications.VGG16(include_top=False, weights=weights)


def _untrained(create: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
    return create(**{**kwargs, "trainable": False})


def _savedmodel(folder: str) -> Distance:
    # A strategy's scope, which is its thread's own, would spread the weights that are made constants.
    with futures.ThreadPoolExecutor(max_workers=1) as unscoped:
        graph, output = unscoped.submit(_frozen_graph, folder).result()

    def forward(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        pixels = {"a": 2.0 * a - 1.0, "b": 2.0 * b - 1.0}
        (answer,) = tf.graph_util.import_graph_def(graph, input_map=pixels, return_elements=[output])
        return tf.cast(answer, tf.float32)

    @tf.custom_gradient
    def in_graph(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        # A tape does not see what is put into a graph; `tf.gradients` does.
        far = forward(a, b)
        return far, lambda upstream: tf.gradients(far, [a, b], upstream)

    called = tf.function(forward)

    def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        # Flat, in the caller's graph, its weights constants. On the way back from a call XLA takes even
        # axes and paddings for results of the call, hence of the pixels, and compiles anew at every step.
        return called(a, b) if tf.executing_eagerly() else in_graph(a, b)

    return distance


def _frozen_graph(folder: str) -> tuple[tf.compat.v1.GraphDef, str]:
    """The signature `distance` as one flat graph of a and b, and the name of its output."""
    name = f"perceptual network savedmodel:{folder}"
    if not tf.saved_model.contains_saved_model(folder):
        raise TrainingError(f"{name}: there is no SavedModel in this folder")
    loaded = tf.saved_model.load(folder)
    if "distance" not in loaded.signatures:
        raise TrainingError(f"{name}: it has no signature `distance`, only {sorted(loaded.signatures)}")
    signature = loaded.signatures["distance"]
    inputs, outputs = sorted(signature.structured_input_signature[1]), list(signature.structured_outputs)
    if inputs != ["a", "b"] or len(outputs) != 1:
        raise TrainingError(
            f"{name}: `distance` takes {inputs} and gives {outputs}; wanted are a and b, and one output"
        )
    graph = convert_variables_to_constants_v2(signature).graph.as_graph_def()
    # XLA refuses placeholders, even those whose place is taken.
    for placeholder in [node for node in graph.node if node.op == "Placeholder"]:
        graph.node.remove(placeholder)
    return graph, signature.outputs[0].name
