"""Images drawn from the generator against real ones: how alike the sets are, how clear the classes."""

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
from components.evaluators.generation.draw import Draw, DrawAgain, Drawn, Plan
from components.evaluators.generation.rejection import KeepLikeliest
from components.evaluators.models import SavedModel
from components.metrics.frechet import frechet_distance
from components.metrics.inception import mean_and_deviation
from components.metrics.moments import Moments, MomentsFn
from serving.queries import GUIDANCE_SCHEDULES

METRICS = ("fid", "fid_eval", "is", "is_std", "class_accuracy")

SAMPLES_FILE = "samples.npz"
SHOWN_CLASSES = 16
SHOWN_PER_CLASS = 8
SHOWN_WITHOUT_CLASS = 64


class Executor(base_beam_executor.BaseBeamExecutor):
    """Does the work of GenerationEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Draws, measures, writes `evaluation.json` and `samples.npz`, and blesses.

        `fid` is the drawn set's distance from the train split, and `fid_eval` the eval split's: what
        real images reach, as Table 6's row "validation data" has it. `class_accuracy`, the share in
        which the classifier sees the wanted class, exists only where the generator takes the classes
        that the classifier knows.

        With an acceptance below 1 all scores are of the candidates that were kept. The classifier that
        keeps them also gives the features, so all scores but `fid_eval` gain from it by construction; the
        paper keeps by one network, ResNet-101, and scores by another, Inception.

        Args:
          input_dict: `examples`, `model` (a generator), `classifier`.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `samples`, `batch_size`, `seed`, `acceptance`, `temperature`, `top_k`, `top_p`,
            `guidance`, `guidance_schedule`, `thresholds` (JSON).

        Raises:
          ValueError: a split is empty; the model has no signature for the guidance schedule; acceptance
            is below 1, and the model takes no classes or the classifier does not know them.
        """
        started = time.monotonic()
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        scores_path = os.path.join(evaluation.uri, "scores.json")
        real, batch_size = input_dict["examples"], exec_properties["batch_size"]
        counts = {f"{split}_images": examples.count(real, split) for split in ("train", "eval")}
        generator, classifier = SavedModel(input_dict["model"]), SavedModel(input_dict["classifier"])
        metadata = generator.metadata()
        labelled = bool(metadata.class_names) and metadata.class_names == classifier.metadata().class_names
        plan = Plan(
            classes=len(metadata.class_names),
            **{field: exec_properties[field] for field in Plan._fields if field != "classes"},
        )
        _check(plan, generator, labelled)
        splits = features.inception_splits(plan.samples)

        with self._make_beam_pipeline() as pipeline:
            drawn = (
                pipeline
                | beam.Create(plan.starts())
                | beam.Reshuffle()
                | beam.ParDo(Draw(generator, classifier, plan, metadata.image_size))
            )
            if plan.acceptance < 1:
                drawn |= KeepLikeliest(plan)
            reals = {
                f"real_{split}": pipeline
                | f"Read {split}" >> examples.ReadImages(real, split, batch_size)
                | f"Describe {split}" >> beam.ParDo(features.Describe(classifier, metadata.image_size))
                | f"Combine {split}" >> scores.Combine("features", MomentsFn())
                for split in ("train", "eval")
            }
            scores.write_scores(
                pipeline,
                scores_path,
                _score,
                drawn=drawn | scores.Combine("description.features", MomentsFn()),
                recognized=drawn | scores.Combine("recognized", MomentsFn()),
                inception=drawn | beam.Map(_answers, plan.samples, splits) | scores.InceptionScores(),
                **reals,
            )
            _ = (
                drawn
                | beam.FlatMap(_shown, plan.classes)
                | "ListShown" >> beam.combiners.ToList()
                | beam.FlatMap(_batches, plan.batch_size)
                | beam.ParDo(DrawAgain(generator, plan, metadata.image_size))
                | "ListImages" >> beam.combiners.ToList()
                | beam.Map(_write_samples, plan, os.path.join(evaluation.uri, SAMPLES_FILE))
            )

        measured = scores.take_scores(scores_path)
        if not labelled:
            del measured["class_accuracy"]
        blessing.judge(
            evaluation,
            artifact_utils.get_single_instance(output_dict["blessing"]),
            artifact_utils.get_single_instance(input_dict["model"]),
            metrics=measured,
            thresholds=json.loads(exec_properties["thresholds"]),
            protocol={
                "features": features.PROTOCOL,
                "reference": "train split",
                "classes": "in turn" if plan.classes else "none",
                "seed": plan.seed,
                "acceptance": plan.acceptance,
                "sampling": {
                    "temperature": plan.temperature,
                    "top_k": plan.top_k,
                    "top_p": plan.top_p,
                    "guidance": plan.guidance,
                    "guidance_schedule": plan.guidance_schedule,
                },
                "inception_splits": splits,
            },
            counts={"samples": plan.samples, "candidates": plan.candidates, **counts},
            seconds=time.monotonic() - started,
        )


def _check(plan: Plan, generator: SavedModel, labelled: bool) -> None:
    """That the models can draw and keep what is planned, before anything is drawn."""
    signature = GUIDANCE_SCHEDULES[plan.guidance_schedule]
    if signature not in generator.load().signatures:
        raise ValueError(
            f"guidance_schedule {plan.guidance_schedule} needs the signature {signature}, which this model "
            "does not have; allowed is constant"
        )
    if plan.acceptance < 1 and not labelled:
        reason = "the classifier does not know the model's" if plan.classes else "the model takes no"
        raise ValueError(f"acceptance {plan.acceptance} needs classes, and {reason} classes; allowed is 1.0")


def _score(
    drawn: Moments, recognized: Moments, inception: list[float], real_train: Moments, real_eval: Moments
) -> dict[str, float]:
    mean, deviation = mean_and_deviation(inception)
    return {
        "fid": frechet_distance(drawn, real_train),
        "fid_eval": frechet_distance(real_eval, real_train),
        "is": mean,
        "is_std": deviation,
        "class_accuracy": float(recognized.mean[0]),
    }


def _answers(batch: Drawn, samples: int, splits: int) -> tuple[np.ndarray, np.ndarray]:
    # Neighbours share a split, so each split is balanced over the classes.
    return batch.places * splits // samples, batch.description.probabilities


def _shown(batch: Drawn, classes: int) -> Iterator[int]:
    """The image numbers of those that are shown: the first of the first classes."""
    shown = SHOWN_PER_CLASS * classes if classes else SHOWN_WITHOUT_CLASS
    yield from batch.indices[(batch.places < shown) & (batch.class_ids < SHOWN_CLASSES)].tolist()


def _batches(indices: list[int], batch_size: int) -> Iterator[list[int]]:
    ordered = sorted(indices)
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _write_samples(samples: list[tuple[int, np.ndarray]], plan: Plan, path: str) -> None:
    numbers = np.array([number for number, _ in samples])
    class_ids = plan.class_ids(numbers)
    order = np.lexsort((numbers, class_ids))
    files.write_arrays(
        path,
        {"classes": class_ids[order], "images": np.stack([samples[row][1] for row in order])},
    )
