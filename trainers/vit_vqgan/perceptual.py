"""Perceptual distances: VGG16's features, LPIPS (Zhang et al. 2018, arXiv:1801.03924), or a SavedModel.

Two networks have VGG16's form. `vgg16` has keras.applications' weights and adds the layers up with weight 1.
`lpips_vgg` is the published LPIPS: torchvision's weights, and for each channel a weight that was fitted to
what people see. The mean of a layer's is 0.07 to 0.11, so its distances are about an eleventh as large.
"""

from __future__ import annotations

import socket
import zipfile
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import keras
import numpy as np
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
# LPIPS' scaling of images in [-1, 1], which amounts to ImageNet's mean and deviation in [0, 1].
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
# By default Python waits for an unresponsive server as long as the kernel does: minutes.
DOWNLOAD_TIMEOUT_SECONDS = 10.0


def load_distance(options: Perceptual) -> Distance:
    """Load the configured perceptual distance, with a frozen network.

    Under a strategy, load it in the strategy's scope: each device then has its own copy of VGG16.

    Raises:
      TrainingError: the weights or the SavedModel cannot be loaded.
    """
    if options.savedmodel:
        return _savedmodel(options.savedmodel)
    return _lpips_vgg(options.weights) if options.network == "lpips_vgg" else _vgg16(options.weights)


def unit_normalized(
    features_a: Sequence[tf.Tensor],
    features_b: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor] | None = None,
) -> tf.Tensor:
    """Return the distance of two images' features, float32 [B]: LPIPS', or with all its weights at 1.

    Both hold one [B, H_l, W_l, C_l] for each layer l, and `weights`, if given, one w [C_l]. With u the
    features at a position divided by their norm over channels (equation 1 of Zhang et al.),

        d(a, b) = sum_l 1 / (H_l W_l) sum_hw sum_c w_c (u_a - u_b)^2,

    a mean over positions and a sum over channels and layers. With w = 1, and since ||u|| = 1, the square is
    2 - 2 u_a . u_b: a cosine distance, 0 to 2 after a ReLU, so that five layers sum to 0 to 10. Its gradient
    with respect to b, 2 (u_b - u_a) projected orthogonally to u_b and divided by the norm of b's features, is
    0 if a = b.
    If all channels are 0, so is u: norms are clamped to at least 1e-6 to keep the division finite.
    """
    layers = zip(features_a, features_b, weights or [None] * len(features_a), strict=True)
    return tf.add_n([tf.reduce_mean(_squared_distance(*layer), axis=[1, 2]) for layer in layers])


def _squared_distance(a: tf.Tensor, b: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Return the squared distance of unit-normalized features [B, H, W, C], float32 [B, H, W]."""
    a, b = (tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1, epsilon=1e-12) for x in (a, b))
    squares = tf.square(a - b)
    return tf.reduce_sum(squares if weights is None else weights * squares, axis=-1)


def _vgg16(weights: str | None) -> Distance:
    return _of_features(_vgg16_from_file(weights) if weights else _vgg16_from_cache(), _vgg16_input)


def _of_features(
    network: keras.Model,
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    weights: Sequence[tf.Tensor] | None = None,
) -> Distance:
    """The distance in the features of a network of VGG16's form."""
    network.trainable = False
    features = keras.Model(network.input, [network.get_layer(name).output for name in VGG16_LAYERS])

    def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        side = min(a.shape[1:3])
        if side < VGG16_SMALLEST_SIDE:
            raise TrainingError(
                f"image size must be at least {VGG16_SMALLEST_SIDE} for perceptual.network vgg16 and "
                f"lpips_vgg, got {side}"
            )
        # Separate calls: `a` needs no gradient, so its activations are not kept for the backward pass.
        of_a, of_b = (features(preprocess(pixels), training=False) for pixels in (a, b))
        return unit_normalized(of_a, of_b, weights)

    return distance


def _lpips_vgg(path: str | None) -> Distance:
    assert path is not None  # the configuration checks
    arrays = _read_lpips(path)
    network = _frozen_vgg16(None)
    for layer in _convolutions(network):
        layer.set_weights([arrays[f"{layer.name}/kernel"], arrays[f"{layer.name}/bias"]])
    weights = [tf.constant(arrays[f"{name}/weight"]) for name in VGG16_LAYERS]
    return _of_features(network, _torchvision_input, weights)


def _torchvision_input(pixels: tf.Tensor) -> tf.Tensor:
    """Convert pixels in [0, 1] to the input of torchvision's networks, as LPIPS scales it."""
    return (2.0 * pixels - 1.0 - LPIPS_SHIFT) / LPIPS_SCALE


def _convolutions(network: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]


def _read_lpips(path: str) -> dict[str, np.ndarray]:
    """Read the arrays of an LPIPS file (docs/training.md), each of the shape that VGG16 has.

    Raises:
      TrainingError: the file is missing, no `.npz`, or its arrays are others.
    """
    name = "perceptual.weights of network lpips_vgg"
    if not tf.io.gfile.exists(path):
        raise TrainingError(f"{name} must be an existing file, got {path!r}")
    expected: dict[str, tuple[int, ...]] = {}
    for layer in _convolutions(_frozen_vgg16(None)):
        kernel, bias = layer.get_weights()
        expected |= {f"{layer.name}/kernel": kernel.shape, f"{layer.name}/bias": bias.shape}
        if layer.name in VGG16_LAYERS:
            expected[f"{layer.name}/weight"] = bias.shape
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            arrays = {key: np.asarray(stored[key], np.float32) for key in expected}
    # An array instead of an archive has no keys: IndexError.
    except (ValueError, OSError, LookupError, zipfile.BadZipFile) as error:
        raise TrainingError(
            f"{name} must be an .npz file as docs/training.md describes, got {path!r}: {one_line(error)}"
        ) from error
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise TrainingError(
                f"{name}: {key} must be of shape {shape}, got {arrays[key].shape} in {path!r}"
            )
    return arrays


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


def _frozen_vgg16(weights: str | None) -> keras.Model:
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
