"""A feature network as others keep one: a SavedModel in a folder, or an ONNX file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from components.evaluators.network_names import ONNX, ProtocolError
from serving.export.signatures import read_signature_defs
from serving.export.versions import SAVED_MODEL, content_digest
from serving.wire.errors import one_line

# ONNX Runtime's names of the types of tensors that networks of images have.
_ONNX_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}

# The key of the name of another file with weights, in a TensorProto's `external_data`.
_EXTERNAL = b"\x0a\x08location\x12"


class NetworkFile(NamedTuple):
    """A loaded network of one input.

    Attributes:
      digest: of its file or folder, 16 hex digits.
      dtype: of its input, "uint8" or "float32"; otherwise as the file names it.
      shape: of its input, None for an axis of any length; () if its rank is unknown.
      outputs: the names of what it answers.
      run: the input to outputs by name.
    """

    digest: str
    dtype: str
    shape: tuple[int | None, ...]
    outputs: tuple[str, ...]
    run: Callable[[np.ndarray], dict[str, np.ndarray]]


def open_network(path: str, output: str) -> NetworkFile:
    """Load the network at a path.

    Raises:
      ProtocolError: it is not there, has more than one input, or no such output.
    """
    return _onnx(path, output) if path.endswith(ONNX) else _saved_model(path, output)


def version(path: str) -> str:
    """The digest of the network at a path, without loading it.

    Raises:
      ProtocolError: it is not there.
    """
    if path.endswith(ONNX):
        return digest(read(path, "the feature network", "an ONNX file"))
    check_saved_model(path)
    return content_digest(path)


def digest(content: bytes) -> str:
    """The digest of a network in one file."""
    return hashlib.sha256(content).hexdigest()[:16]


def read(path: str, what: str, wanted: str) -> bytes:
    """Read a network in one file.

    Raises:
      ProtocolError: there is none; the message says that `what` must be `wanted`.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.NotFoundError as error:
        raise ProtocolError(f"{what} must be {wanted}, got {path}") from error


@contextlib.contextmanager
def unreadable(what: str) -> Iterator[None]:
    """Say in one line that a network cannot be read: a store refuses, or its file is damaged."""
    try:
        yield
    except (tf.errors.OpError, OSError, DecodeError) as error:
        raise ProtocolError(f"{what} cannot be read: {one_line(error)}") from error


def signatures_at(path: str, what: str = "the feature network") -> dict[str, Any]:
    """The signatures of the SavedModel at a path, without loading it.

    Raises:
      ProtocolError: there is none, or it cannot be read.
    """
    with unreadable(f"{what} {path}"):
        check_saved_model(path, what)
        return read_signature_defs(path)


def check_saved_model(path: str, what: str = "the feature network") -> None:
    """Raise a ProtocolError if there is no SavedModel at a path."""
    if not tf.io.gfile.exists(os.path.join(path, SAVED_MODEL)):
        raise ProtocolError(f"{what} must be the folder of a SavedModel, got {path}")


def _saved_model(path: str, output: str) -> NetworkFile:
    fitting = {key: one for key, one in signatures_at(path).items() if len(one.inputs) == 1}
    having = [key for key, one in fitting.items() if output in one.outputs]
    if not having:
        _refuse(
            path,
            "of a signature with one input",
            {key for one in fitting.values() for key in one.outputs},
            output,
        )
    loaded = tf.saved_model.load(path)
    signature = having[0]
    ((argument, spec),) = loaded.signatures[signature].structured_input_signature[1].items()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # By `loaded`, which owns the variables.
        answer = loaded.signatures[signature](**{argument: tf.constant(images)})
        return {name: tensor.numpy() for name, tensor in answer.items()}

    return NetworkFile(
        content_digest(path),
        spec.dtype.name,
        tuple(spec.shape.as_list()) if spec.shape.rank is not None else (),
        tuple(loaded.signatures[signature].structured_outputs),
        run,
    )


def _onnx(path: str, output: str) -> NetworkFile:
    # By whom it is needed: it takes a quarter of a second to import.
    import onnxruntime

    content = read(path, "the feature network", "an ONNX file")
    if _EXTERNAL in content:
        raise ProtocolError(f"{path} must hold its weights itself, got weights in other files")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), [one.name for one in session.get_outputs()]
    if len(inputs) != 1:
        raise ProtocolError(f"{path} must have one input, got {', '.join(one.name for one in inputs)}")
    if output not in outputs:
        _refuse(path, "it has", outputs, output)
    argument = inputs[0].name
    shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
    if shape[:1] != (None,):
        raise ProtocolError(f"{path} must take any number of images, got input {argument} {list(shape)}")

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(outputs, session.run(outputs, {argument: images}), strict=True))

    dtype = _ONNX_TYPES.get(inputs[0].type, inputs[0].type)
    return NetworkFile(digest(content), dtype, shape, tuple(outputs), run)


def _refuse(path: str, of: str, outputs: Sequence[str] | set[str], output: str) -> None:
    known = ", ".join(sorted(outputs)) or "none"
    raise ProtocolError(f"output of {path} must be one {of} ({known}), got {output!r}")
