"""Compares sampled images with real ones: distance of the sets, and clarity of the classes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils

from components.evaluators import blessing, examples, features, files, scores
from components.evaluators.generation.rejection import KeepLikeliest
from components.evaluators.generation.sampling import DrawSamples, RedrawImages, Samples, SamplingPlan
from components.evaluators.models import SavedModel
from components.metrics import registry
from components.metrics.moments import MomentsFn
from serving.export.sampling_params import SamplingParams

SAMPLES_FILE = "samples.npz"
SHOWN_CLASSES = 16
SHOWN_PER_CLASS = 8
SHOWN_WITHOUT_CLASS = 64


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of GenerationEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Sample, measure, write `evaluation.json` and `samples.npz`, and bless.

        `fid` is the distance of the samples from the train split, and `fid_eval` that of the eval split: the
        value for real images, as in Table 6's row "validation data". `class_accuracy`, the share of samples
        that the classifier assigns to the requested class, exists only if generator and classifier have the
        same classes.

        With an acceptance below 1 all scores are of the kept candidates. The classifier that selects them
        also provides the features, so all scores but `fid_eval` gain by construction; the paper selects by
        ResNet-101 and scores by Inception.

        Args:
          input_dict: `examples`, `model` (a generator), `classifier`.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `samples`, `batch_size`, `acceptance`, `sampling` (SamplingParams as JSON),
            `thresholds` (JSON).

        Raises:
          ValueError: a split is empty; the model has no signature for the guidance schedule; acceptance is
            below 1, and generator and classifier do not have the same classes.
        """
        started = time.monotonic()
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        statistics_path = os.path.join(evaluation.uri, "scores.json")
        real, batch_size = input_dict["examples"], exec_properties["batch_size"]
        counts = {f"{split}_images": examples.count(real, split) for split in ("train", "eval")}
        generator, network = SavedModel(input_dict["model"]), features.feature_network(input_dict)
        metadata = generator.metadata()
        same_classes = bool(metadata.class_names) and metadata.class_names == network.class_names
        plan = SamplingPlan(
            samples=exec_properties["samples"],
            classes=len(metadata.class_names),
            batch_size=batch_size,
            acceptance=exec_properties["acceptance"],
            params=SamplingParams.model_validate_json(exec_properties["sampling"]),
        )
        _check(plan, generator, same_classes)
        splits = features.inception_splits(plan.samples)
        needs = registry.available_needs(plan.classes if same_classes else 0)

        with self._make_beam_pipeline() as pipeline:
            samples = (
                pipeline
                | beam.Create(plan.starts())
                | beam.Reshuffle()
                | beam.ParDo(DrawSamples(generator, network, plan, metadata.image_size))
            )
            if plan.acceptance < 1:
                samples |= KeepLikeliest(plan)
            train, held_out = (
                pipeline
                | f"Read {split}" >> examples.ReadImages(real, split, batch_size)
                | f"Extract {split}" >> beam.ParDo(features.ExtractFeatures(network, metadata.image_size))
                | f"Combine {split}" >> scores.Combine("features", MomentsFn())
                for split in ("train", "eval")
            )
            scores.write_scores(
                pipeline,
                statistics_path,
                lambda **statistics: registry.compute(
                    registry.GENERATION, registry.GenerationStatistics(**statistics), needs
                ),
                samples=samples | scores.Combine("features.features", MomentsFn()),
                train=train,
                held_out=held_out,
                recognized=samples | scores.Combine("recognized", MomentsFn()),
                inception_scores=samples
                | beam.Map(_probabilities, plan.samples, splits)
                | scores.InceptionScores(),
            )
            _ = (
                samples
                | beam.FlatMap(_shown, plan.classes)
                | "ListShown" >> beam.combiners.ToList()
                | beam.FlatMap(_batches, plan.batch_size)
                | beam.ParDo(RedrawImages(generator, plan, metadata.image_size))
                | "ListImages" >> beam.combiners.ToList()
                | beam.Map(_write_samples, plan, os.path.join(evaluation.uri, SAMPLES_FILE))
            )

        blessing.judge(
            evaluation,
            artifact_utils.get_single_instance(output_dict["blessing"]),
            artifact_utils.get_single_instance(input_dict["model"]),
            metrics=scores.take_scores(statistics_path),
            thresholds=json.loads(exec_properties["thresholds"]),
            protocol={
                "features": network.protocol,
                "reference": "train split",
                "classes": "in turn" if plan.classes else "none",
                "acceptance": plan.acceptance,
                "sampling": plan.params.model_dump(),
                "inception_splits": splits,
            },
            counts={"samples": plan.samples, "candidates": plan.candidates, **counts},
            seconds=time.monotonic() - started,
        )


def _check(plan: SamplingPlan, generator: SavedModel, same_classes: bool) -> None:
    """Check that the models can do what is planned, before anything is sampled."""
    params = plan.params
    if params.signature not in generator.load().signatures:
        raise ValueError(
            "evaluation.generation.sampling.guidance_schedule must be constant for this model, which has no "
            f"signature {params.signature}, got {params.guidance_schedule}"
        )
    if plan.acceptance < 1 and not same_classes:
        reason = "whose classes are not the classifier's" if plan.classes else "which has no classes"
        raise ValueError(
            f"evaluation.generation.acceptance must be 1.0 for a model {reason}, got {plan.acceptance}"
        )


def _probabilities(batch: Samples, samples: int, splits: int) -> tuple[np.ndarray, np.ndarray]:
    # Neighbours share a split, so each split is balanced over the classes.
    return batch.places * splits // samples, batch.features.probabilities


def _shown(batch: Samples, classes: int) -> Iterator[int]:
    """The image numbers of the samples to show: the first of the first classes."""
    shown = SHOWN_PER_CLASS * classes if classes else SHOWN_WITHOUT_CLASS
    yield from batch.indices[(batch.places < shown) & (batch.class_ids < SHOWN_CLASSES)].tolist()


def _batches(indices: list[int], batch_size: int) -> Iterator[list[int]]:
    ordered = sorted(indices)
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _write_samples(samples: list[tuple[int, np.ndarray]], plan: SamplingPlan, path: str) -> None:
    numbers = np.array([number for number, _ in samples])
    class_ids = plan.class_ids(numbers)
    order = np.lexsort((numbers, class_ids))
    files.write_arrays(
        path,
        {"classes": class_ids[order], "images": np.stack([samples[row][1] for row in order])},
    )
