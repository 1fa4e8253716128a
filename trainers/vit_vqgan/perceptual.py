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

# Two batches of pixels, float32 [B, S, S, 3] in about [0, 1], to their distances, float32 [B].
Distance = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3: keras.applications' layers end with their ReLU.
VGG16_LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
VGG16_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
# By default Python waits for an unresponsive server as long as the kernel does: minutes.
DOWNLOAD_TIMEOUT_SECONDS = 10.0


def load_distance(options: Perceptual) -> Distance:
    """Load the configured perceptual distance, with a frozen network.

    Under a strategy, load it in the strategy's scope: each device then has its own copy of VGG16.

    Raises:
      TrainingError: the weights or the SavedModel cannot be loaded.
    """
    return _savedmodel(options.savedmodel) if options.savedmodel else _vgg16(options.weights)


def unit_normalized(features_a: Sequence[tf.Tensor], features_b: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the LPIPS distance of two images' features, with every learned weight at 1, float32 [B].

    Both hold one [B, H_l, W_l, C_l] for each layer l. With u the features at a position divided by their
    norm over channels (equation 1 of Zhang et al.),

        d(a, b) = sum_l 1 / (H_l W_l) sum_hw ||u_a - u_b||^2,

    a mean over positions and a sum over channels and layers. As ||u|| = 1, the square is 2 - 2 u_a . u_b: a
    cosine distance, 0 to 2 after a ReLU, so that five layers sum to 0 to 10. The gradient with respect to
    b, 2 (u_b - u_a) projected orthogonally to u_b and divided by the norm of b's features, is 0 if a = b.
    If all channels are 0, so is u: norms are clamped to at least 1e-6 to keep the division finite.
    """
    layers = zip(features_a, features_b, strict=True)
    return tf.add_n([tf.reduce_mean(_squared_distance(a, b), axis=[1, 2]) for a, b in layers])


def _squared_distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Return the squared distance of unit-normalized features [B, H, W, C], float32 [B, H, W]."""
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
                f"image size must be at least {VGG16_SMALLEST_SIDE} for perceptual.network vgg16, got {side}"
            )
        # Separate calls: `a` needs no gradient, so its activations are not kept for the backward pass.
        return unit_normalized(*(features(_vgg16_input(pixels), training=False) for pixels in (a, b)))

    return distance


def _vgg16_input(pixels: tf.Tensor) -> tf.Tensor:
    """Convert pixels in [0, 1] to VGG16's input: 0..255, BGR, minus ImageNet's mean."""
    return keras.applications.vgg16.preprocess_input(255.0 * pixels)


def _vgg16_from_file(path: str) -> keras.Model:
    if not tf.io.gfile.exists(path):
        raise TrainingError(f"perceptual.weights must be an existing file, got {path!r}")
    try:
        return _frozen_vgg16(path)
    except (ValueError, OSError, KeyError) as error:
        raise TrainingError(
            "perceptual.weights must be VGG16's without its top, .h5 or .weights.h5 as keras.applications "
            f"stores them, got {path!r}: {one_line(error)}"
        ) from error


def _vgg16_from_cache() -> keras.Model:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        return _frozen_vgg16("imagenet")
    except Exception as error:  # Keras raises a plain Exception if a download fails.
        raise TrainingError(
            f"weights of perceptual.network vgg16 cannot be downloaded ({one_line(error)}); "
            f"put {VGG16_FILE} into ~/.keras/models, or name the file in `weights`"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _frozen_vgg16(weights: str) -> keras.Model:
    # Setting `trainable` of the Keras model is too late: a tape would still watch its tf.Variables.
    with tf.variable_creator_scope(_untrained):
        return keras.applications.VGG16(include_top=False, weights=weights)


def _untrained(create: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
    return create(**{**kwargs, "trainable": False})


def _savedmodel(folder: str) -> Distance:
    # In another thread: a strategy's scope, which is thread-local, would distribute the weights to freeze.
    with futures.ThreadPoolExecutor(max_workers=1) as unscoped:
        graph, output = unscoped.submit(_frozen_graph, folder).result()

    def forward(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        pixels = {"a": 2.0 * a - 1.0, "b": 2.0 * b - 1.0}
        (answer,) = tf.graph_util.import_graph_def(graph, input_map=pixels, return_elements=[output])
        return tf.cast(answer, tf.float32)

    @tf.custom_gradient
    def in_graph(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        # A tape does not record imported ops; `tf.gradients` differentiates them.
        far = forward(a, b)
        return far, lambda upstream: tf.gradients(far, [a, b], upstream)

    called = tf.function(forward)

    def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        # Inlined in the caller's graph, with constant weights. In the backward pass of a function call, XLA
        # treats even axes and paddings as results that depend on the pixels, and recompiles at every step.
        return called(a, b) if tf.executing_eagerly() else in_graph(a, b)

    return distance


def _frozen_graph(folder: str) -> tuple[tf.compat.v1.GraphDef, str]:
    """Return the signature `distance` as a flat graph of a and b, and the name of its output."""
    name = f"perceptual.network savedmodel:{folder}"
    if not tf.saved_model.contains_saved_model(folder):
        raise TrainingError(f"{name} must be a folder with a SavedModel")
    loaded = tf.saved_model.load(folder)
    if "distance" not in loaded.signatures:
        raise TrainingError(f"{name} must have a signature `distance`, got {sorted(loaded.signatures)}")
    signature = loaded.signatures["distance"]
    inputs, outputs = sorted(signature.structured_input_signature[1]), list(signature.structured_outputs)
    if inputs != ["a", "b"] or len(outputs) != 1:
        raise TrainingError(
            f"{name}: `distance` must have inputs a and b and one output, got {inputs} and {outputs}"
        )
    graph = convert_variables_to_constants_v2(signature).graph.as_graph_def()
    # XLA rejects placeholders, even those that `input_map` replaces.
    for placeholder in [node for node in graph.node if node.op == "Placeholder"]:
        graph.node.remove(placeholder)
    return graph, signature.outputs[0].name
