"""Held-out images through the tokenizer and back: how much is lost, how much of the codebook serves."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils

from components.evaluators import blessing, examples, features, files, scores
from components.evaluators.models import SavedModel
from components.metrics import pixels
from components.metrics.codebook import CodebookUsageFn, Usage
from components.metrics.frechet import frechet_distance
from components.metrics.inception import mean_and_deviation
from components.metrics.moments import Moments, MomentsFn

METRICS = (
    "l1",
    "l2",
    "logit_laplace",
    "psnr",
    "codebook_usage",
    "codebook_perplexity",
    "fid",
    "is",
    "is_std",
)

PAIRS_FILE = "pairs.npz"
PAIRS = 32


class Reconstructed(NamedTuple):
    """B images before and after, and what was measured on them."""

    keys: np.ndarray  # object [B], bytes
    labels: np.ndarray  # int64 [B]
    originals: np.ndarray  # uint8 [B, S, S, 3]
    reconstructions: np.ndarray  # uint8 [B, S, S, 3]
    tokens: np.ndarray  # int32 [B, N]
    distances: np.ndarray  # float64 [B, 4]: l1, l2, logit-laplace, PSNR
    before: features.Description
    after: features.Description


class Executor(base_beam_executor.BaseBeamExecutor):
    """Does the work of ReconstructionEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Measures, writes `evaluation.json` and `pairs.npz`, and blesses.

        Args:
          input_dict: `examples`, `model` (a tokenizer), `classifier`.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `batch_size`, `thresholds` (JSON).

        Raises:
          ValueError: the eval split is empty.
        """
        started = time.monotonic()
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        scores_path = os.path.join(evaluation.uri, "scores.json")
        count = examples.count(input_dict["examples"], "eval")
        tokenizer, classifier = SavedModel(input_dict["model"]), SavedModel(input_dict["classifier"])
        metadata = tokenizer.metadata()
        splits = features.inception_splits(count)

        with self._make_beam_pipeline() as pipeline:
            batches = (
                pipeline
                | examples.ReadImages(input_dict["examples"], "eval", exec_properties["batch_size"])
                | beam.ParDo(Reconstruct(tokenizer, classifier, metadata.image_size))
            )
            scores.write_scores(
                pipeline,
                scores_path,
                _score,
                distances=batches | scores.Combine("distances", MomentsFn()),
                codes=batches | scores.Combine("tokens", CodebookUsageFn(metadata.codebook_size)),
                before=batches | scores.Combine("before.features", MomentsFn()),
                after=batches | scores.Combine("after.features", MomentsFn()),
                inception=batches | beam.Map(_answers, splits) | scores.InceptionScores(),
            )
            _ = (
                batches
                | beam.FlatMap(_pairs)
                | beam.combiners.Top.Smallest(PAIRS, key=lambda pair: pair["rank"])
                | beam.Map(_write_pairs, os.path.join(evaluation.uri, PAIRS_FILE))
            )

        measured = scores.take_scores(scores_path)
        blessing.judge(
            evaluation,
            artifact_utils.get_single_instance(output_dict["blessing"]),
            artifact_utils.get_single_instance(input_dict["model"]),
            metrics={name: measured[name] for name in METRICS},
            thresholds=json.loads(exec_properties["thresholds"]),
            protocol={
                "split": "eval",
                "features": features.PROTOCOL,
                "reference": "the originals of the eval split",
                "usage_batch": measured["usage_batch"],
                "inception_splits": splits,
                "logit_laplace": "with the Jacobian, nats a value",
            },
            counts={"images": count, "usage_batches": measured["usage_batches"]},
            seconds=time.monotonic() - started,
        )


class Reconstruct(beam.DoFn):
    """`ImageBatch` -> `Reconstructed`."""

    def __init__(self, tokenizer: SavedModel, classifier: SavedModel, image_size: int):
        self._handles = tokenizer, classifier
        self._image_size = image_size

    def setup(self) -> None:
        """Loads both models."""
        self._tokenizer, self._classifier = (handle.load() for handle in self._handles)
        if "mu" not in self._tokenizer.signatures["decode_pixels"].structured_outputs:
            raise ValueError(
                "the tokenizer comes from an earlier version, whose decode_pixels gives no mu; run with "
                "another --output"
            )

    def process(self, batch: examples.ImageBatch) -> Iterator[Reconstructed]:
        """Encodes, decodes and measures one batch."""
        original = features.decode(tf.constant(batch.image_bytes), self._image_size)
        tokens = self._tokenizer.signatures["encode_pixels"](pixels=original)["tokens"]
        decoded = self._tokenizer.signatures["decode_pixels"](tokens=tokens)
        x, p = original.numpy(), decoded["pixels"].numpy()
        levels_x, levels_p = features.to_8_bits(x), features.to_8_bits(p)
        distances = (
            pixels.l1(x, p),
            pixels.l2(x, p),
            pixels.logit_laplace(x, decoded["mu"].numpy(), decoded["log_scale"].numpy()),
            pixels.psnr(x, p),
        )
        yield Reconstructed(
            batch.keys,
            batch.labels,
            levels_x,
            levels_p,
            tokens.numpy(),
            np.stack(distances, axis=1),
            features.look(self._classifier, levels_x),
            features.look(self._classifier, levels_p),
        )


def _score(
    distances: Moments, codes: Usage, before: Moments, after: Moments, inception: list[float]
) -> dict[str, float]:
    l1, l2, logit_laplace, psnr = distances.mean.tolist()
    mean, deviation = mean_and_deviation(inception)
    return {
        "l1": l1,
        "l2": l2,
        "logit_laplace": logit_laplace,
        "psnr": psnr,
        "codebook_usage": codes.usage,
        "codebook_perplexity": codes.perplexity,
        "fid": frechet_distance(before, after),
        "is": mean,
        "is_std": deviation,
        "usage_batch": codes.batch_size,
        "usage_batches": codes.batches,
    }


def _answers(batch: Reconstructed, splits: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([zlib.crc32(key) % splits for key in batch.keys]), batch.after.probabilities


def _pairs(batch: Reconstructed) -> Iterator[dict[str, Any]]:
    for key, label, original, reconstruction in zip(
        batch.keys, batch.labels, batch.originals, batch.reconstructions, strict=True
    ):
        # In the order of a hash, pairs are of all classes, and the same ones in every run.
        yield {
            "rank": zlib.crc32(key),
            "labels": label,
            "originals": original,
            "reconstructions": reconstruction,
        }


def _write_pairs(pairs: list[dict[str, Any]], path: str) -> None:
    files.write_arrays(
        path,
        {
            name: np.stack([pair[name] for pair in pairs])
            for name in ("labels", "originals", "reconstructions")
        },
    )
