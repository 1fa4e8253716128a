"""LPIPS (Zhang et al. 2018): a perceptual distance by a SavedModel at a path."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from apache_beam.utils import shared

from components.evaluators.network_file import signatures_at, unreadable
from components.evaluators.network_names import ProtocolError
from serving.export.versions import content_digest

KEY = "evaluation.reconstruction.lpips"
SIGNATURE, OUTPUT, INPUTS = "distance", "distance", ("a", "b")

# Two batches of 8-bit images, uint8 [B, S, S, 3], to their distances, float64 [B].
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def version(path: str) -> str:
    """The digest of the network's weights.

    Raises:
      ProtocolError: it is not there, or has another form.
    """
    found = signatures_at(path, KEY).get(SIGNATURE)
    if found is None or OUTPUT not in found.outputs or set(found.inputs) != set(INPUTS):
        raise ProtocolError(
            f"{KEY} must have the signature {SIGNATURE} from a and b, float32 "
            f"[B, H, W, 3] in [-1, 1], to {OUTPUT} [B], got {os.fspath(path)}"
        )
    with unreadable(KEY):
        return content_digest(path)


class Lpips:
    """The network, light enough to be sent to a Beam worker."""

    def __init__(self, path: str):
        self._path = path
        self._shared = shared.Shared()

    def load(self) -> Distance:
        """Load it, once a process."""
        model = self._shared.acquire(functools.partial(tf.saved_model.load, self._path))

        def distance(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
            pair = (tf.constant(levels, tf.float32) / 127.5 - 1.0 for levels in (originals, reconstructions))
            answer = model.signatures[SIGNATURE](**dict(zip(INPUTS, pair, strict=True)))
            return answer[OUTPUT].numpy().astype(np.float64)

        return distance
