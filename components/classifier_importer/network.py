"""A network of keras.applications as the recognizer of a run (ResNet-101 for Table 6's rejection sampling).

Images are treated as such networks are evaluated: the central 7/8, which of 256 pixels are 224, is resized to
the network's own input.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata as distributions
from typing import NamedTuple

import keras
import tensorflow as tf

from components.classifier_importer.names import NETWORKS, NetworkFiles
from serving.export.atomic import copy_file, is_remote
from serving.export.versions import blocks
from serving.wire.errors import one_line

# The WordNet IDs of ImageNet's classes, sorted: the order of all published networks. TFDS ships them.
_SYNSETS = "tensorflow_datasets/datasets/imagenet2012/labels.txt"
IMAGENET_CLASSES = 1000
# Of the side, as in 224 of 256 (He et al. 2016, section 3.4).
_CENTRE = 7 / 8
# By default Python waits for an unresponsive server as long as the kernel does: minutes.
_DOWNLOAD_SECONDS = 10.0


class ClassifierError(ValueError):
    """A network that cannot be the recognizer; the message is one line for the user."""


class Recognizer(NamedTuple):
    """A loaded network.

    Attributes:
      model: holds its variables.
      class_names: of its logits.
      resize: how images come to its input, in words.
      classify: pixels float32 [B, S, S, 3] in [0, 1] -> (logits float32 [B, C], features float32 [B, D]),
        the features being what the last layer with weights gets.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    resize: str
    classify: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def version(files: NetworkFiles) -> str:
    """The digest of a network's files, without loading it; for Keras' own weights the release of Keras.

    Raises:
      ClassifierError: a file is not there.
    """
    digest = hashlib.sha256()
    for path in filter(None, files[1:]):
        try:
            for block in blocks(path):
                digest.update(block)
        except (OSError, tf.errors.OpError) as error:
            raise ClassifierError(f"classifier must have the file {path}: {one_line(error)}") from error
    kept = "" if files.weights else f"keras-{distributions.version('keras')}-"
    return kept + digest.hexdigest()[:16]


def load(files: NetworkFiles) -> Recognizer:
    """Load a network with its weights.

    Raises:
      ClassifierError: its weights or its classes are not there, or are another network's.
    """
    class_names = _class_names(files.classes)
    model = _built(files, len(class_names))
    prepare = getattr(keras.applications, NETWORKS[files.network]).preprocess_input
    last = next(layer for layer in reversed(model.layers) if hasattr(layer, "kernel"))
    answers = keras.Model(model.input, [model.output, last.input])
    size = model.input_shape[1]

    def classify(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits, features = answers(prepare(255.0 * _resized(pixels, size)), training=False)
        return logits, tf.reshape(features, [tf.shape(pixels)[0], features.shape[-1]])

    return Recognizer(model, class_names, f"central 7/8, bilinear to {size}", classify)


def of_classes(recognizer: Recognizer, class_names: Sequence[str]) -> Recognizer:
    """A recognizer of these classes alone, in their order; the same one if there are none.

    Raises:
      ClassifierError: one of them is none of the network's, or more than one.
    """
    if not class_names:
        return recognizer
    known = recognizer.class_names
    for name in class_names:
        if known.count(name) != 1:
            raise ClassifierError(
                "classifier.network must have each class of the data once, got "
                f"{known.count(name)} of {name!r} among {known[0]!r}, ..., {known[-1]!r}: name them in a "
                "file (classifier.classes), or train a classifier (classifier.train)"
            )
    columns = tf.constant([known.index(name) for name in class_names])

    def classify(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits, features = recognizer.classify(pixels)
        return tf.gather(logits, columns, axis=1), features

    return recognizer._replace(class_names=tuple(class_names), classify=classify)


def _resized(pixels: tf.Tensor, size: int) -> tf.Tensor:
    side = pixels.shape[1]
    kept = round(_CENTRE * side)
    first = (side - kept) // 2
    centre = pixels[:, first : first + kept, first : first + kept]
    return centre if kept == size else tf.image.resize(centre, [size, size], antialias=True)


def _class_names(path: str) -> tuple[str, ...]:
    if not path:
        return tuple(_lines(str(distributions.distribution("tensorflow-datasets").locate_file(_SYNSETS))))
    try:
        names = tuple(_lines(path))
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise ClassifierError(
            f"classifier.classes must be a text file, got {path}: {one_line(error)}"
        ) from error
    if len(names) < 2:
        raise ClassifierError(f"classifier.classes must have two or more, got {len(names)} in {path}")
    return names


def _lines(path: str) -> list[str]:
    with tf.io.gfile.GFile(path) as file:
        return [line.strip() for line in file.read().splitlines() if line.strip()]


def _built(files: NetworkFiles, classes: int) -> keras.Model:
    build = getattr(keras.applications, files.network)
    if not files.weights:
        return _kept(files.network, build, classes)
    if not tf.io.gfile.exists(files.weights):
        raise ClassifierError(f"classifier.weights must be a file that exists, got {files.weights}")
    try:
        model = build(weights=None, classes=classes, classifier_activation=None)
        with _local(files.weights) as path:
            model.load_weights(path)
        return model
    except (ValueError, OSError, KeyError) as error:
        raise ClassifierError(
            f"classifier.weights must be {files.network}'s of {classes} classes with its top, .h5 or "
            f".weights.h5 as keras.applications stores them, got {files.weights}: {one_line(error)}"
        ) from error


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    """A file as one of this machine, which is what Keras can read."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        here = os.path.join(folder, os.path.basename(path))
        copy_file(path, here)
        yield here


def _kept(name: str, build: Callable[..., keras.Model], classes: int) -> keras.Model:
    if classes != IMAGENET_CLASSES:
        raise ClassifierError(
            f"classifier.classes must have {IMAGENET_CLASSES} names without classifier.weights, got {classes}"
        )
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SECONDS)
    try:
        return build(weights="imagenet", classes=classes, classifier_activation=None)
    except Exception as error:  # Keras raises a plain Exception if a download fails.
        raise ClassifierError(
            f"weights of classifier.network {name} cannot be downloaded ({one_line(error)}); put "
            f"keras.applications' file of it into ~/.keras/models, or name it in classifier.weights"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
