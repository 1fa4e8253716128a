"""Reconstructs held-out images with the tokenizer, and measures distances and codebook usage."""

from __future__ import annotations

import functools
import json
import os
import time
import zlib
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils

from components import pushed_model
from components.evaluators import blessing, examples, features, scores
from components.evaluators.networks import Networks
from components.evaluators.reconstruction import shown
from components.evaluators.reconstruction.reconstruct import LPIPS, PER_IMAGE, Reconstruct, Reconstructed
from components.metrics import intervals, registry
from components.metrics.codebook import CodebookUsageFn, Usage
from components.metrics.moments import Moments, MomentsFn
from components.saved_model import SavedModel
from serving.export.atomic import make_folder, remove


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ReconstructionEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Measure, write `evaluation.json` and the arrays of `shown`, and bless.

        Args:
          input_dict: `examples`, `model` (a tokenizer), `classifier`.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `batch_size`, `thresholds` (JSON), `pushed` (folder of pushed versions, or ""),
            `features` (a name of `components.evaluators.network_names`), `features_version`, `lpips` (the
            folder of a SavedModel, or ""), `lpips_version`.

        Raises:
          ValueError: the eval split is empty.
          ProtocolError: the feature network, or that of LPIPS, is not there.
        """
        started = time.monotonic()
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        count = examples.count(input_dict["examples"], "eval")
        tokenizer = SavedModel.of(input_dict["model"])
        networks = Networks.of(input_dict, exec_properties["features"])
        class_names = tuple(examples.dataset(input_dict["examples"]).class_names)
        splits = features.inception_splits(count)
        wanted = {"encode_pixels": ("tokens",), "decode_pixels": ("pixels", "mu", "log_scale")}
        pushed = pushed_model.find(exec_properties["pushed"], tokenizer.metadata(), wanted)
        measured, before = (
            self._measured(input_dict, exec_properties, networks, tokenizer, evaluation.uri),
            {},
        )
        if pushed.path and not pushed.problem:
            # In the artifact, where workers can write too; its pairs are not shown.
            scratch = os.path.join(evaluation.uri, "pushed")
            make_folder(scratch)
            before = self._measured(input_dict, exec_properties, networks, SavedModel(pushed.path), scratch)
            remove(scratch)
        blessing.judge(
            evaluation,
            artifact_utils.get_single_instance(output_dict["blessing"]),
            artifact_utils.get_single_instance(input_dict["model"]),
            metrics=_metrics(measured),
            thresholds=json.loads(exec_properties["thresholds"]),
            protocol={
                "split": "eval",
                **networks.protocol(class_names, measured["accuracy"]),
                "dimensions": measured["dimensions"],
                **({LPIPS: exec_properties["lpips_version"]} if exec_properties[LPIPS] else {}),
                "reference": "the originals of the eval split",
                "usage_batch": measured["usage_batch"],
                "inception_splits": splits,
                "logit_laplace": "with the Jacobian, nats a value",
            },
            counts={"images": count, "usage_batches": measured["usage_batches"]},
            seconds=time.monotonic() - started,
            intervals=measured["intervals"],
            pushed=blessing.Pushed(pushed.version, _metrics(before), pushed.problem),
        )

    def _measured(
        self,
        input_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
        networks: Networks,
        tokenizer: SavedModel,
        folder: str,
    ) -> dict[str, Any]:
        """The scores of a tokenizer; what the report shows is written to `folder`."""
        scores_path = os.path.join(folder, "scores.json")
        lpips = exec_properties[LPIPS]
        needs = registry.available_needs(0, probabilities=networks.scores_classes, lpips=bool(lpips))
        metadata = tokenizer.metadata()
        splits = features.inception_splits(examples.count(input_dict["examples"], "eval"))
        with self._make_beam_pipeline() as pipeline:
            batches = (
                pipeline
                | examples.ReadImages(input_dict["examples"], "eval", exec_properties["batch_size"])
                | beam.ParDo(Reconstruct(tokenizer, networks, metadata.image_size, lpips))
            )
            usage = batches | scores.Combine("placed", CodebookUsageFn(metadata.codebook_size))
            scores.write_scores(
                pipeline,
                scores_path,
                functools.partial(_score, needs),
                accuracy=batches | beam.Map(lambda batch: batch.hits) | scores.Accuracy(),
                per_image=batches | scores.Combine("per_image", MomentsFn()),
                usage=usage,
                originals=batches | scores.Combine("original_features.features", MomentsFn()),
                reconstructions=batches | scores.Combine("reconstruction_features.features", MomentsFn()),
                inception_scores=batches | beam.Map(_probabilities, splits) | scores.InceptionScores(),
            )
            _ = batches | shown.WritePairs(LPIPS if lpips else "psnr", folder)
            _ = usage | beam.Map(shown.write_codes, folder)
        return scores.take_scores(scores_path)


def _metrics(measured: Mapping[str, Any]) -> dict[str, float]:
    return {name: measured[name] for name in registry.names(registry.RECONSTRUCTION) if name in measured}


def _score(
    needs: frozenset[registry.Need],
    *,
    accuracy: float,
    per_image: Moments,
    usage: Usage,
    originals: Moments,
    reconstructions: Moments,
    inception_scores: list[float],
) -> dict[str, Any]:
    statistics = registry.ReconstructionStatistics(usage, originals, reconstructions, inception_scores)
    measured = {
        metric.name: (mean, variance)
        for metric, mean, variance in zip(
            PER_IMAGE, per_image.mean.tolist(), np.diag(per_image.covariance).tolist(), strict=True
        )
        if set(metric.needs) <= needs
    }
    return {
        **{name: mean for name, (mean, _) in measured.items()},
        **registry.compute(registry.RECONSTRUCTION, statistics, needs),
        "usage_batch": usage.batch_size,
        "usage_batches": usage.batches,
        "accuracy": accuracy,
        "dimensions": len(originals.mean),
        "intervals": {
            name: intervals.of_mean(mean, variance, per_image.count)
            for name, (mean, variance) in measured.items()
        },
    }


def _probabilities(batch: Reconstructed, splits: int) -> tuple[np.ndarray, np.ndarray]:
    split_of_each = np.array([zlib.crc32(key) % splits for key in batch.keys])
    return split_of_each, batch.reconstruction_features.probabilities
