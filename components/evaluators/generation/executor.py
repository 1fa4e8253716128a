"""Compares sampled images with real ones: distance of the sets, and clarity of the classes."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils

from components.evaluators import blessing, examples, features, files, scores
from components.evaluators.features import FeatureNetwork
from components.evaluators.generation import neighbours
from components.evaluators.generation.neighbours import HELD_OUT
from components.evaluators.generation.rejection import KeepLikeliest
from components.evaluators.generation.samples import (
    ReadSamples,
    Samples,
    Shard,
    images,
    read_set,
    shards,
)
from components.evaluators.generation.statistics import (
    SUBSET,
    FirstFeatures,
    FirstMoments,
    SampleStatistics,
    score,
)
from components.evaluators.networks import Networks
from components.metrics import registry
from components.reference_statistics.stored import ReadReal, moments_path, read_reference
from components.sampled_set import PUSHED, SAMPLES, SampledSet

SAMPLES_FILE = "samples.npz"
# With rejection: the image numbers of the samples that were kept, in ascending order.
KEPT_FILE = "kept.npz"
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
        """Measure, write `evaluation.json`, `samples.npz` and `neighbours.npz`, and bless.

        `fid` is the distance of the samples from the train split. `fid_eval` is that of held-out images, the
        value for real images, as in Table 6's row "validation data", and `fid_matched` that of as many
        samples. `class_accuracy`, the share of samples that the classifier assigns to the requested class,
        exists only if generator and classifier have the same classes. `memorization` tells whether samples
        are nearer to training images than held-out images are.

        With an acceptance below 1 all scores are of the kept candidates. In the features of the classifier
        that selects them, FID, IS, precision and class accuracy gain by construction; the paper selects by
        ResNet-101 and scores by Inception.

        Args:
          input_dict: `examples`, `reference` (these images in the features), `samples`, `model` (the
            generator that drew them), `classifier`.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `batch_size`, `thresholds` (JSON), `features` (a name of
            `components.evaluators.network_names`), `features_version`.

        Raises:
          ValueError: acceptance is below 1, and generator and classifier do not have the same classes; or
            the reference is of another network.
          ProtocolError: the feature network is not there.
        """
        started = time.monotonic()
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        real, reference = input_dict["examples"], input_dict["reference"]
        described = read_reference(reference)
        counts = {f"{split}_images": count for split, count in described["counts"].items()}
        class_names = tuple(examples.dataset(real).class_names)
        networks = Networks.of(input_dict, exec_properties["features"])
        _check_reference(described, networks.features)
        train_moments = moments_path(artifact_utils.get_single_uri(reference), "train")
        sampled = read_set(input_dict["samples"])
        plan = sampled.plan
        told = networks.tells(sampled.class_names)
        if plan.acceptance < 1 and not told:
            raise ValueError(
                "evaluation.generation.acceptance must be 1.0 for a model whose classes are not the "
                f"classifier's, got {plan.acceptance}"
            )
        counts["matched"] = min(plan.samples, counts["eval_images"])
        counts["subset"] = min(plan.samples, counts["train_images"], SUBSET)
        counts["sought"] = min(plan.samples, neighbours.MEASURED)
        counts["held_out_sought"] = min(counts["eval_images"], neighbours.MEASURED)
        counts["train_subset"] = min(counts["train_images"], SUBSET)
        splits = features.inception_splits(plan.samples)
        needs = registry.available_needs(plan.classes if told else 0, probabilities=networks.scores_classes)
        paths = {split: os.path.join(evaluation.uri, f"{split}.json") for split in sampled.splits}

        with self._make_beam_pipeline() as pipeline:
            samples = {}
            for split in sampled.splits:
                read = ReadSamples(
                    shards(input_dict["samples"], split), networks, sampled, exec_properties["batch_size"]
                )
                samples[split] = pipeline | f"Extract {split}" >> read
                if plan.acceptance < 1:
                    samples[split] |= f"Reject {split}" >> KeepLikeliest(plan)
            held_out, train = (
                pipeline | f"Read {split}" >> ReadReal(reference, split) for split in ("eval", "train")
            )
            found_in = shards(input_dict["samples"], SAMPLES)
            queries = {**samples, HELD_OUT: held_out} | "Queries" >> neighbours.MakeQueries(found_in, sampled)
            found = (
                train
                | beam.ParDo(neighbours.FindNearest(), beam.pvalue.AsSingleton(queries))
                | beam.CombineGlobally(neighbours.FoundFn())
            )
            real_statistics = {
                "train_subset": train | "Subset of train" >> FirstFeatures(counts["train_subset"]),
                "held_out": held_out | "Combine eval" >> FirstMoments(counts["matched"]),
                "found": found,
            }
            for split, path in paths.items():
                scores.write_scores(
                    pipeline,
                    path,
                    functools.partial(score, needs, split, plan.params.seed, train=train_moments),
                    queries=queries,
                    **real_statistics,
                    **samples[split]
                    | f"Combine {split}"
                    >> SampleStatistics(plan, splits, matched=counts["matched"], subset=counts["subset"]),
                )
            _ = samples[SAMPLES] | WriteShown(found_in, sampled, evaluation.uri)
            near = os.path.join(evaluation.uri, neighbours.NEIGHBOURS_FILE)
            _ = found | beam.Map(
                neighbours.write,
                beam.pvalue.AsSingleton(queries),
                examples.image_shards(real, "train"),
                sampled.image_size,
                near,
            )

        measured = {split: scores.take_scores(path) for split, path in paths.items()}
        metrics = {split: _metrics(one) for split, one in measured.items()}
        blessing.judge(
            evaluation,
            artifact_utils.get_single_instance(output_dict["blessing"]),
            artifact_utils.get_single_instance(input_dict["model"]),
            metrics=metrics[SAMPLES],
            thresholds=json.loads(exec_properties["thresholds"]),
            protocol={
                **networks.protocol(class_names, described["accuracy"]),
                "dimensions": described["dimensions"],
                "reference": "train split",
                "classes": "in turn" if plan.classes else "none",
                "acceptance": plan.acceptance,
                "sampling": plan.params.model_dump(),
                "compiled": sampled.compiled,
                "inception_splits": splits,
                "kernel_subsets_seed": plan.params.seed,
            },
            counts={"samples": plan.samples, "candidates": plan.candidates, **counts},
            seconds=time.monotonic() - started,
            intervals=measured[SAMPLES]["intervals"],
            pushed=blessing.Pushed(sampled.pushed, metrics.get(PUSHED, {}), sampled.pushed_problem),
        )


def _check_reference(described: Mapping[str, Any], network: FeatureNetwork) -> None:
    own = network.name, network.about()["weights"]
    if (described["features"], described["weights"]) != own:
        raise ValueError(
            f"the reference must be in the features of {' '.join(own)}, got {described['features']} "
            f"{described['weights']}: run ReferenceStatistics again"
        )


def _metrics(measured: Mapping[str, float]) -> dict[str, float]:
    return {name: measured[name] for name in registry.names(registry.GENERATION) if name in measured}


class WriteShown(beam.PTransform):
    """Writes the samples to show, and after a rejection the numbers of all that were kept."""

    def __init__(self, found: list[Shard], sampled: SampledSet, folder: str):
        super().__init__()
        self._found = found
        self._sampled = sampled
        self._folder = folder

    def expand(self, samples: beam.PCollection) -> beam.PCollection:
        """Write."""
        plan = self._sampled.plan
        if plan.acceptance < 1:
            kept = samples | beam.Map(_numbers) | "ListKept" >> beam.combiners.ToList()
            _ = kept | beam.Map(_write_kept, os.path.join(self._folder, KEPT_FILE))
        shown = samples | beam.FlatMap(_shown, plan.classes) | "ListShown" >> beam.combiners.ToList()
        path = os.path.join(self._folder, SAMPLES_FILE)
        return shown | beam.Map(_write_shown, self._found, self._sampled, path)


def _shown(batch: Samples, classes: int) -> Iterator[int]:
    """The image numbers of the samples to show: the first of the first classes."""
    shown = SHOWN_PER_CLASS * classes if classes else SHOWN_WITHOUT_CLASS
    yield from batch.indices[(batch.places < shown) & (batch.class_ids < SHOWN_CLASSES)].tolist()


def _write_shown(numbers: list[int], found: list[Shard], sampled: SampledSet, path: str) -> None:
    class_ids = sampled.plan.class_ids(np.array(numbers))
    order = np.lexsort((np.array(numbers), class_ids))
    chosen = images(found, sampled, numbers)
    files.write_arrays(
        path,
        {"classes": class_ids[order], "images": np.stack([chosen[numbers[row]] for row in order])},
    )


def _numbers(batch: Samples) -> list[int]:
    return batch.indices.tolist()


def _write_kept(numbers: list[list[int]], path: str) -> None:
    files.write_arrays(path, {"numbers": np.sort(np.concatenate(numbers).astype(np.int64))})
