"""Compute FID and IS with tensorflow-gan, in a separate process.

tensorflow-gan 2.1 predates TensorFlow 2.16, which dropped `tf.estimator` and Keras 2. To import it takes a
stub for `tf.estimator` and the legacy Keras, and neither may leak into other tests. So this file runs as a
program: it reads arrays from an .npz file and prints the scores as JSON.
"""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np


def scores(folder: Path, **arrays: np.ndarray) -> dict[str, float]:
    """Return `fid` of float32 features `a`, `b` [N, D], and `is` of float32 `logits` [N, C]."""
    np.savez(folder / "arrays.npz", **arrays)
    answer = subprocess.run(
        [sys.executable, __file__, str(folder / "arrays.npz")],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def main(path: str) -> None:
    import tensorflow as tf

    class Anything(types.SimpleNamespace):
        def __getattr__(self, name):
            return object  # base class of tensorflow-gan's own classes

    tf.estimator = Anything(tpu=Anything())
    tf.compat.v1.estimator = Anything(tpu=Anything())
    from tensorflow_gan.python.eval import classifier_metrics

    arrays = np.load(path)
    fid = classifier_metrics.frechet_classifier_distance_from_activations(arrays["a"], arrays["b"])
    score = classifier_metrics.classifier_score_from_logits(tf.constant(arrays["logits"]))
    print(json.dumps({"fid": float(fid), "is": float(score)}))


if __name__ == "__main__":
    main(sys.argv[1])
