"""Feature networks by name: what must be the same for two scores to be comparable.

| name | network | features; probabilities |
|---|---|---|
| `classifier:PATH` | the classifier SavedModel of a run | pooled; softmax |
| `inception_2015:FILE.pb` | Inception of 2015-12-05, frozen (Dhariwal 2021) | `pool_3`; softmax |
| `savedmodel:PATH#OUTPUT` | any, with a signature from uint8 [B, H, W, 3] to OUTPUT [B, D] | OUTPUT; none |

Nothing is downloaded, and no other network ever stands in for one that is not there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from components.evaluators.features import ClassifierFeatures, Extract, Features
from components.saved_model import SavedModel
from serving.export.signatures import read_signature_defs
from serving.export.versions import SAVED_MODEL, content_digest
from serving.wire.errors import one_line

FORMS = "classifier:PATH, inception_2015:FILE.pb, savedmodel:PATH#OUTPUT"

# Nodes of the frozen graph, as ADM's evaluator and TF-GAN use them: images before resizing, and the kernel of
# the logits, which the Inception Score takes without their bias.
_IMAGES, _POOL, _LOGITS = "ExpandDims", "pool_3", "softmax/logits/MatMul"


class ProtocolError(ValueError):
    """A feature network that is unknown or not there; the message is one line."""


@dataclass(frozen=True)
class FeatureProtocol:
    """A feature network that is there.

    Attributes:
      name: without the path.
      digest: of its weights, 16 hex digits.
      resize: how images come to its input size.
      extract: 8-bit images uint8 [B, S, S, 3] to features and probabilities ([B, 0] if it has none).
    """

    name: str
    digest: str
    resize: str
    extract: Extract


def open_protocol(text: str) -> FeatureProtocol:
    """Open the network that `text` names.

    Raises:
      ProtocolError: it has none of the forms, or the network is not there or is another.
    """
    name, _, place = text.partition(":")
    if name not in _OPENERS or not place:
        raise ProtocolError(f"features must be one of {FORMS}, got {text!r}")
    try:
        return _OPENERS[name](place)
    except ProtocolError:
        raise
    # A file that is no graph raises almost anything.
    except Exception as error:
        raise ProtocolError(f"{text} cannot be loaded: {one_line(error)}") from error


def _classifier(path: str) -> FeatureProtocol:
    _check_saved_model(path)
    network = ClassifierFeatures(SavedModel(path))
    size = SavedModel(path).metadata().image_size
    return FeatureProtocol(
        "classifier", content_digest(path), f"none: images must have {size} pixels a side", network.load()
    )


def _saved_model(place: str) -> FeatureProtocol:
    path, _, output = place.rpartition("#")
    if not path or not output:
        raise ProtocolError(f"features must be savedmodel:PATH#OUTPUT, got savedmodel:{place!r}")
    _check_saved_model(path)
    signatures = read_signature_defs(path)
    having = [name for name, one in signatures.items() if output in one.outputs and len(one.inputs) == 1]
    if not having:
        known = sorted({name for one in signatures.values() for name in one.outputs})
        raise ProtocolError(f"output of {path} must be one of {', '.join(known)}, got {output!r}")
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures[having[0]]
    ((argument, spec),) = signature.structured_input_signature[1].items()
    if spec.dtype != tf.uint8:
        raise ProtocolError(f"input {argument} of {path} must be uint8, got {spec.dtype.name}")

    def extract(levels: np.ndarray) -> Features:
        # By `loaded`, which owns the variables.
        answer = loaded.signatures[having[0]](**{argument: tf.constant(levels)})
        return _without_probabilities(answer[output].numpy())

    return FeatureProtocol(f"savedmodel#{output}", content_digest(path), "the network's own", extract)


def _inception_2015(path: str) -> FeatureProtocol:
    if not os.path.isfile(path):
        raise ProtocolError(
            f"inception_2015 must be the file of the frozen graph (classify_image_graph_def.pb), got {path}"
        )
    with open(path, "rb") as file:
        content = file.read()
    graph = tf.compat.v1.GraphDef.FromString(content)
    nodes = {node.name: node for node in graph.node}
    if missing := [name for name in (_IMAGES, _POOL, _LOGITS) if name not in nodes]:
        raise ProtocolError(f"{path} must have the node {missing[0]} of Inception of 2015, got another graph")
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
    return FeatureProtocol("inception_2015", digest, "bilinear to 299, the graph's own", extract)


def _without_probabilities(features: np.ndarray) -> Features:
    if features.ndim != 2:
        raise ProtocolError(f"features must be [B, D], got {list(features.shape)}")
    return Features(features, np.zeros((len(features), 0), np.float32))


def _check_saved_model(path: str) -> None:
    if not os.path.isfile(os.path.join(path, SAVED_MODEL)):
        raise ProtocolError(f"the feature network must be the folder of a SavedModel, got {path}")


_OPENERS: dict[str, Any] = {
    "classifier": _classifier,
    "inception_2015": _inception_2015,
    "savedmodel": _saved_model,
}
