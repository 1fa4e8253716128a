"""The same questions as in this process, asked of a server: it loads, warms up, and answers alike."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from components.model_validator.answers import WrongAnswerError
from serving.client.client import Client
from serving.client.process import started
from serving.export.atomic import is_remote
from serving.export.versions import push

MODEL = "model"
# To load and warm up, and for each request: a large model draws for minutes on a CPU.
SECONDS = 3600.0
# Another process may sum in another order, as with other threads, and round a pixel to the next level.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


@contextlib.contextmanager
def served(path: str) -> Iterator[tuple[str, str]]:
    """Serve the SavedModel in a folder from a process of its own; yield its addresses, gRPC and REST.

    Raises:
      ServingError: it does not load, or refuses its own warm-up.
      MemoryError: the process was killed.
    """
    with tempfile.TemporaryDirectory() as base:
        versions = os.path.join(base, MODEL)
        if is_remote(path):
            push(path, versions)
        else:
            os.makedirs(versions)
            os.symlink(os.path.abspath(path), os.path.join(versions, "1"))
        with started(base, seconds=SECONDS) as endpoints:
            yield endpoints


def check(
    client: Client, signature: str, rows: Mapping[str, tf.Tensor], answer: Mapping[str, tf.Tensor]
) -> None:
    """Check that a server's answer is that of this process.

    Raises:
      ClientError: the server refuses.
      WrongAnswerError: it answers something else.
    """
    inputs = {name: np.asarray(values.numpy()) for name, values in rows.items()}
    got = client.predict(MODEL, signature, inputs)
    if got.keys() != answer.keys():
        raise WrongAnswerError(f"outputs must be {sorted(answer)} from a server too, got {sorted(got)}")
    for name, expected in answer.items():
        if not _alike(name, got[name], expected.numpy()):
            raise WrongAnswerError(f"{name} from a server must be that of this process, got another")


def _alike(name: str, got: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two answers are the same, but for last bits of floats and what these do to pixels."""
    if got.shape != wanted.shape:
        return False
    if wanted.dtype.kind == "f":
        return np.allclose(got, wanted, _RELATIVE, _ABSOLUTE)
    if name == "image_bytes":
        return all(_most_difference(*pair) <= 1 for pair in zip(got.flat, wanted.flat, strict=True))
    return np.array_equal(got, wanted)


def _most_difference(got: bytes, wanted: bytes) -> float:
    """The largest difference of two pictures, in levels of 8 bits; infinity if one is none of their size."""
    try:
        first, second = (tf.cast(tf.io.decode_png(content), tf.int32) for content in (got, wanted))
    except tf.errors.InvalidArgumentError:
        return np.inf
    return float(tf.reduce_max(tf.abs(first - second))) if first.shape == second.shape else np.inf
