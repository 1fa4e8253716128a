"""Feature networks at a path: what must be the same for two scores to be comparable.

`components.evaluators.network_names` lists them. Nothing is downloaded, and no other network ever stands in
for one that is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image

from components.evaluators.features import ClassifierFeatures, Extract, Features
from components.evaluators.network_names import NetworkName, ProtocolError, parse
from components.saved_model import SavedModel
from serving.export.signatures import read_signature_defs
from serving.export.versions import SAVED_MODEL, content_digest
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
            return hashlib.sha256(_read(name.path)).hexdigest()[:16]
        _check_saved_model(name.path)
        return content_digest(name.path)


@contextlib.contextmanager
def unreadable(what: str) -> Iterator[None]:
    """Say in one line that a network cannot be read: a store refuses, or its file is damaged."""
    try:
        yield
    except (tf.errors.OpError, OSError, DecodeError) as error:
        raise ProtocolError(f"{what} cannot be read: {one_line(error)}") from error


def _read(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.NotFoundError as error:
        raise ProtocolError(
            f"inception_2015 must be the file of the frozen graph (classify_image_graph_def.pb), got {path}"
        ) from error


def _classifier(name: NetworkName) -> FeatureProtocol:
    _check_saved_model(name.path)
    network = ClassifierFeatures(SavedModel(name.path))
    size = SavedModel(name.path).metadata().image_size
    return FeatureProtocol(
        "classifier",
        content_digest(name.path),
        f"none: images must have {size} pixels a side",
        network.load(),
    )


def _saved_model(name: NetworkName) -> FeatureProtocol:
    loaded, signature, argument, spec = _signature(name)
    if spec.dtype != tf.uint8:
        raise ProtocolError(f"input {argument} of {name.path} must be uint8, got {spec.dtype.name}")

    def extract(levels: np.ndarray) -> Features:
        # By `loaded`, which owns the variables.
        answer = loaded.signatures[signature](**{argument: tf.constant(levels)})
        return _without_probabilities(answer[name.output].numpy())

    return FeatureProtocol(
        f"savedmodel#{name.output}", content_digest(name.path), "the network's own", extract
    )


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
    loaded, signature, argument, spec = _signature(name)
    shape = spec.shape.as_list() if spec.shape.rank == 4 else []
    channels_first = shape[1:2] == [3]
    size = shape[2] if channels_first else shape[1] if shape[3:] == [3] else None
    if spec.dtype != tf.float32 or not size:
        raise ProtocolError(
            f"input {argument} of {name.path} must be float32 [B, S, S, 3] or [B, 3, S, S] with a known S, "
            f"got {spec.dtype.name} {spec.shape}"
        )
    mean, deviation = (np.array(values, np.float32) for values in _NORMALIZATIONS[name.kind])

    def extract(levels: np.ndarray) -> Features:
        pixels = _resized(levels, size).astype(np.float32) / 255.0
        pixels = (pixels - mean) / deviation
        if channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        answer = loaded.signatures[signature](**{argument: tf.constant(pixels)})
        return _without_probabilities(answer[name.output].numpy())

    resize = f"bicubic to {size} (Pillow)"
    return FeatureProtocol(f"{name.kind}#{name.output}", content_digest(name.path), resize, extract)


def _resized(levels: np.ndarray, size: int) -> np.ndarray:
    """Images uint8 [B, H, W, 3] at `size` pixels a side, by the filter that torchvision and clean-fid use."""
    if levels.shape[1:3] == (size, size):
        return levels
    resized = [Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC) for one in levels]
    return np.stack([np.asarray(one) for one in resized])


def _signature(name: NetworkName) -> tuple[Any, str, str, tf.TensorSpec]:
    """The loaded SavedModel, its signature with the output, and name and spec of its only input."""
    signatures = signatures_at(name.path)
    fitting = {key: one for key, one in signatures.items() if len(one.inputs) == 1}
    having = [key for key, one in fitting.items() if name.output in one.outputs]
    if not having:
        known = ", ".join(sorted({key for one in fitting.values() for key in one.outputs})) or "none"
        raise ProtocolError(
            f"output of {name.path} must be one of a signature with one input ({known}), got {name.output!r}"
        )
    loaded = tf.saved_model.load(name.path)
    ((argument, spec),) = loaded.signatures[having[0]].structured_input_signature[1].items()
    return loaded, having[0], argument, spec


def _inception_2015(name: NetworkName) -> FeatureProtocol:
    content = _read(name.path)
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

    digest = hashlib.sha256(content).hexdigest()[:16]
    resize = "bilinear to 299, the graph's own"
    return FeatureProtocol("inception_2015", digest, resize, extract, has_probabilities=True)


def _inception_fid(name: NetworkName) -> FeatureProtocol:
    """torch-fidelity's Inception: 8-bit images of any size, [B, 3, H, W] as in PyTorch or [B, H, W, 3].

    It resizes by itself, as TensorFlow 1 did; of its logits those without bias give the Inception Score.
    """
    loaded, signature, argument, spec = _signature(name)
    shape = spec.shape.as_list() if spec.shape.rank == 4 else []
    channels_first = shape[1:2] == [3]
    if spec.dtype != tf.uint8 or not (channels_first or shape[3:] == [3]):
        raise ProtocolError(
            f"input {argument} of {name.path} must be uint8 [B, 3, H, W] or [B, H, W, 3], got "
            f"{spec.dtype.name} {spec.shape}"
        )

    def extract(levels: np.ndarray) -> Features:
        images = levels.transpose(0, 3, 1, 2) if channels_first else levels
        answer = loaded.signatures[signature](**{argument: tf.constant(images)})
        features = _without_probabilities(answer[name.output].numpy())
        if has_probabilities:
            return features._replace(probabilities=tf.nn.softmax(answer[_UNBIASED]).numpy())
        return features

    has_probabilities = _UNBIASED in loaded.signatures[signature].structured_outputs
    return FeatureProtocol(
        f"inception_fid#{name.output}",
        content_digest(name.path),
        "bilinear to 299, the network's own",
        extract,
        has_probabilities,
    )


def signatures_at(path: str, what: str = "the feature network") -> dict[str, Any]:
    """The signatures of the SavedModel at a path, without loading it.

    Raises:
      ProtocolError: there is none, or it cannot be read.
    """
    with unreadable(f"{what} {path}"):
        _check_saved_model(path, what)
        return read_signature_defs(path)


def _without_probabilities(features: np.ndarray) -> Features:
    if features.ndim != 2:
        raise ProtocolError(f"features must be [B, D], got {list(features.shape)}")
    return Features(features, np.zeros((len(features), 0), np.float32))


def _check_saved_model(path: str, what: str = "the feature network") -> None:
    if not tf.io.gfile.exists(os.path.join(path, SAVED_MODEL)):
        raise ProtocolError(f"{what} must be the folder of a SavedModel, got {path}")


_OPENERS: dict[str, Callable[[NetworkName], FeatureProtocol]] = {
    "classifier": _classifier,
    "inception_2015": _inception_2015,
    "inception_fid": _inception_fid,
    "dinov2": _normalized,
    "clip": _normalized,
    "savedmodel": _saved_model,
}
