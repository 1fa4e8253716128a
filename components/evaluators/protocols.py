"""Feature networks at a path: what must be the same for two scores to be comparable.

`components.evaluators.network_names` lists them. Nothing is downloaded, and no other network ever stands in
for one that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from components.evaluators import network_file
from components.evaluators.features import ClassifierFeatures, Extract, Features, weights_digest
from components.evaluators.network_file import (
    NetworkFile,
    check_saved_model,
    digest,
    open_network,
    read,
    unreadable,
)
from components.evaluators.network_names import NetworkName, ProtocolError, parse
from components.saved_model import SavedModel
from serving.wire.errors import one_line

# Nodes of the frozen graph, as ADM's evaluator and TF-GAN use them: images before resizing, and the kernel of
# the logits, which the Inception Score takes without their bias.
_IMAGES, _POOL, _LOGITS = "ExpandDims", "pool_3", "softmax/logits/MatMul"
# torch-fidelity's name of the logits without bias.
_UNBIASED = "logits_unbiased"


@dataclass(frozen=True)
class FeatureProtocol:
    """A feature network that is there.

    Attributes:
      name: without the path.
      digest: of its weights, 16 hex digits.
      resize: how images come to its input size.
      has_probabilities: whether it has classes, whose probabilities mean something.
      extract: 8-bit images uint8 [B, S, S, 3] to features and probabilities ([B, 0] if it has none).
    """

    name: str
    digest: str
    resize: str
    extract: Extract
    has_probabilities: bool = False


def open_protocol(text: str) -> FeatureProtocol:
    """Open the network that `text` names.

    Raises:
      ProtocolError: it has none of the forms, or the network is not there or is another.
    """
    name = parse(text)
    try:
        return _OPENERS[name.kind](name)
    except ProtocolError:
        raise
    # A file that is no graph raises almost anything.
    except Exception as error:
        raise ProtocolError(f"{text} cannot be loaded: {one_line(error)}") from error


def version(text: str) -> str:
    """The digest of the weights of the network that `text` names, without loading it.

    Raises:
      ProtocolError: it has none of the forms, or is not there.
    """
    name = parse(text)
    with unreadable(text):
        if name.kind == "inception_2015":
            return digest(_frozen_graph(name.path))
        if name.kind == "classifier":
            check_saved_model(name.path)
            return weights_digest(name.path)
        return network_file.version(name.path)


def _frozen_graph(path: str) -> bytes:
    return read(path, "inception_2015", "the file of the frozen graph (classify_image_graph_def.pb)")


def _classifier(name: NetworkName) -> FeatureProtocol:
    check_saved_model(name.path)
    network = ClassifierFeatures(SavedModel(name.path))
    about, size = network.about(), SavedModel(name.path).metadata().image_size
    resize = f"{about['resize']}: images must have {size} pixels a side"
    return FeatureProtocol("classifier", about["weights"], resize, network.load())


def _any(name: NetworkName) -> FeatureProtocol:
    network = open_network(name.path, name.output)
    if network.dtype != "uint8":
        raise ProtocolError(f"{name.path} must take uint8, got {network.dtype}")

    def extract(levels: np.ndarray) -> Features:
        return _without_probabilities(network.run(levels)[name.output])

    return FeatureProtocol(f"{name.kind}#{name.output}", network.digest, "the network's own", extract)


class _Normalization(NamedTuple):
    """How a network was trained to see images: resized by bicubic filters, and centred."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


_NORMALIZATIONS = {
    # ImageNet's, as DINOv2 takes it.
    "dinov2": _Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": _Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def _normalized(name: NetworkName) -> FeatureProtocol:
    """A network of normalized float32 images of one size, [B, S, S, 3] or, as in PyTorch, [B, 3, S, S]."""
    network = open_network(name.path, name.output)
    channels_first = _channels_first(network)
    size = None if channels_first is None else network.shape[2 if channels_first else 1]
    if network.dtype != "float32" or not size:
        raise ProtocolError(
            f"{name.path} must take float32 [B, S, S, 3] or [B, 3, S, S] with a known S, got "
            f"{_described(network)}"
        )
    mean, deviation = (np.array(values, np.float32) for values in _NORMALIZATIONS[name.kind])

    def extract(levels: np.ndarray) -> Features:
        pixels = _resized(levels, size).astype(np.float32) / 255.0
        pixels = (pixels - mean) / deviation
        if channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        return _without_probabilities(network.run(pixels)[name.output])

    resize = f"bicubic to {size} (Pillow)"
    return FeatureProtocol(f"{name.kind}#{name.output}", network.digest, resize, extract)


def _resized(levels: np.ndarray, size: int) -> np.ndarray:
    """Images uint8 [B, H, W, 3] at `size` pixels a side, by the filter that torchvision and clean-fid use."""
    if levels.shape[1:3] == (size, size):
        return levels
    resized = [Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC) for one in levels]
    return np.stack([np.asarray(one) for one in resized])


def _inception_2015(name: NetworkName) -> FeatureProtocol:
    content = _frozen_graph(name.path)
    graph = tf.compat.v1.GraphDef.FromString(content)
    nodes = {node.name: node for node in graph.node}
    if missing := [one for one in (_IMAGES, _POOL, _LOGITS) if one not in nodes]:
        raise ProtocolError(
            f"{name.path} must have the node {missing[0]} of Inception of 2015, got another graph"
        )
    kernel = nodes[_LOGITS].input[1]

    def run(images: tf.Tensor) -> list[tf.Tensor]:
        return tf.graph_util.import_graph_def(
            graph,
            input_map={f"{_IMAGES}:0": images},
            return_elements=[f"{_POOL}:0", f"{kernel}:0"],
            name="",
        )

    wrapped = tf.compat.v1.wrap_function(run, [tf.TensorSpec([None, None, None, 3], tf.float32)])

    def extract(levels: np.ndarray) -> Features:
        pooled, weights = wrapped(tf.constant(levels, tf.float32))
        features = tf.reshape(pooled, [len(levels), -1])
        return Features(features.numpy(), tf.nn.softmax(features @ weights).numpy())

    resize = "bilinear to 299, the graph's own"
    return FeatureProtocol("inception_2015", digest(content), resize, extract, has_probabilities=True)


def _inception_fid(name: NetworkName) -> FeatureProtocol:
    """torch-fidelity's Inception: 8-bit images of any size, [B, 3, H, W] as in PyTorch or [B, H, W, 3].

    It resizes by itself, as TensorFlow 1 did; of its logits those without bias give the Inception Score.
    """
    network = open_network(name.path, name.output)
    channels_first = _channels_first(network)
    if network.dtype != "uint8" or channels_first is None:
        raise ProtocolError(
            f"{name.path} must take uint8 [B, 3, H, W] or [B, H, W, 3], got {_described(network)}"
        )

    def extract(levels: np.ndarray) -> Features:
        answer = network.run(levels.transpose(0, 3, 1, 2) if channels_first else levels)
        features = _without_probabilities(answer[name.output])
        if has_probabilities:
            return features._replace(probabilities=tf.nn.softmax(answer[_UNBIASED]).numpy())
        return features

    has_probabilities = _UNBIASED in network.outputs
    return FeatureProtocol(
        f"inception_fid#{name.output}",
        network.digest,
        "bilinear to 299, the network's own",
        extract,
        has_probabilities,
    )


def _channels_first(network: NetworkFile) -> bool | None:
    """Whether channels are the second axis of a network's images, or the last; None if neither is certain."""
    if len(network.shape) != 4:
        return None
    return True if network.shape[1] == 3 else False if network.shape[3] == 3 else None


def _described(network: NetworkFile) -> str:
    return f"{network.dtype} {list(network.shape)}"


def _without_probabilities(features: np.ndarray) -> Features:
    if features.ndim != 2:
        raise ProtocolError(f"features must be [B, D], got {list(features.shape)}")
    return Features(features, np.zeros((len(features), 0), np.float32))


_OPENERS: dict[str, Callable[[NetworkName], FeatureProtocol]] = {
    "classifier": _classifier,
    "inception_2015": _inception_2015,
    "inception_fid": _inception_fid,
    "dinov2": _normalized,
    "clip": _normalized,
    "savedmodel": _any,
    "onnx": _any,
}
