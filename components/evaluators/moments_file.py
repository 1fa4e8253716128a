"""Moments of features in a file, as ADM's evaluator and pytorch-fid keep them, and of what they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from components.evaluators import files
from components.metrics.moments import Moments


def write(path: str, moments: Moments, network: tuple[str, str], about: dict[str, Any]) -> None:
    """Write moments.

    Args:
      path: an .npz.
      moments: of features.
      network: name and digest of weights of what computed these.
      about: of the images: path, count, fingerprint.
    """
    text = json.dumps({**about, "features": list(network)})
    files.write_arrays(path, {"mu": moments.mean, "sigma": moments.covariance, "about": np.array(text)})


def read(path: str) -> Moments:
    """Read what `write` wrote."""
    arrays = files.read_arrays(path)
    return Moments(json.loads(arrays["about"].item())["count"], arrays["mu"], arrays["sigma"])
