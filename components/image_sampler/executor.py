"""ImageSampler's executor: draws the shards that are missing, and hands over the whole set."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import apache_beam as beam
import tensorflow as tf
from rich.console import Console
from tensorflow.core.protobuf import saved_model_pb2
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils
from tfx.utils import path_utils

from components import saved_model
from components.dataset import SplitCounts
from components.examples_artifact import describe_artifact
from components.image_sampler.shards import DrawShards, Shards
from components.sampled_set import SAMPLES, SampledSet, SamplingPlan
from components.saved_model import SavedModel
from components.tfrecords import Shard, fingerprint, read_records
from serving.export import compiled
from serving.export import fingerprint as of_model
from serving.export.atomic import DRAFT, atomic_folder, copy_file, make_folder, remove
from serving.export.metadata import Metadata
from serving.export.sampling_params import SamplingParams
from serving.export.versions import SAVED_MODEL


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageSampler."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Draw the images of a plan.

        Shards are drawn in a folder of the run, which outlives this execution: one that follows a killed one
        finds them there. Its name has a digest of the model and of the plan.

        Args:
          input_dict: `model`, a generator.
          output_dict: `examples`.
          exec_properties: `samples`, `acceptance`, `sampling` (SamplingParams as JSON), `shard_size`,
            `batch_size`, `drawn` (folder for shards).

        Raises:
          ValueError: the model cannot draw what is planned.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        output = artifact_utils.get_single_instance(output_dict["examples"])
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        shard_size = exec_properties["shard_size"]
        try:
            metadata = Metadata.read(model) or SavedModel(model).metadata()
            plan = SamplingPlan(
                samples=exec_properties["samples"],
                classes=len(metadata.class_names),
                acceptance=exec_properties["acceptance"],
                params=SamplingParams.model_validate_json(exec_properties["sampling"]),
            )
            _check(plan, model)
            program = compiled.beside(model)
            program = program if tf.io.gfile.exists(program) else ""
            digest = _digest(plan, program or model, shard_size)
            shards = Shards(
                os.path.join(exec_properties["drawn"], digest), "samples", tuple(plan.shards(shard_size))
            )
            self._draw(model, program, plan, shards, shard_size, exec_properties["batch_size"])
        finally:
            saved_model.release()
        with atomic_folder(output.uri):
            written = _hand_over(shards, output.uri)
            _sidecar(metadata, plan, written, shard_size, bool(program)).write(output.uri)
        describe_artifact(output, [SAMPLES])
        remove(shards.folder)

    def _draw(
        self,
        model: str,
        program: str,
        plan: SamplingPlan,
        shards: Shards,
        shard_size: int,
        batch_size: int,
    ) -> None:
        make_folder(shards.folder)
        for draft in tf.io.gfile.glob(os.path.join(shards.folder, f"{DRAFT}*")):
            remove(draft)  # of a killed run
        missing = shards.missing()
        if len(missing) < len(shards.counts):
            Console(stderr=True).print(
                f"samples: resuming with {len(missing)} of {len(shards.counts)} shards to draw"
            )
        if not missing:
            return
        draw = DrawShards(model, program, plan, shards, shard_size=shard_size, batch_size=batch_size)
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | beam.Create(missing) | beam.Reshuffle() | beam.ParDo(draw)


def _check(plan: SamplingPlan, model: str) -> None:
    """Check that the model can do what is planned, before anything is drawn."""
    params = plan.params
    with tf.io.gfile.GFile(os.path.join(model, SAVED_MODEL), "rb") as file:
        (graph,) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    if params.signature not in graph.signature_def:
        raise ValueError(
            "evaluation.generation.sampling.guidance_schedule must be constant for this model, which has no "
            f"signature {params.signature}, got {params.guidance_schedule}"
        )
    if plan.acceptance < 1 and not plan.classes:
        raise ValueError(
            "evaluation.generation.acceptance must be 1.0 for a model which has no classes, got "
            f"{plan.acceptance}"
        )


def _digest(plan: SamplingPlan, model: str, shard_size: int) -> str:
    """A digest of all that the images depend on, and their places in shards."""
    decisive = [plan.samples, plan.acceptance, plan.params.model_dump(), shard_size]
    text = json.dumps([*decisive, of_model.fingerprint(model)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _hand_over(shards: Shards, uri: str) -> list[Shard]:
    """Copy the shards to the artifact, each read once more to its end."""
    folder = os.path.join(uri, f"Split-{SAMPLES}")
    make_folder(folder)
    written = []
    for number, count in enumerate(shards.counts):
        source = shards.path(number)
        digest = hashlib.sha256()
        for record in read_records(source, count):
            digest.update(hashlib.sha256(record).digest())
        copy_file(source, os.path.join(folder, os.path.basename(source)))
        written.append(Shard(SAMPLES, number, count, digest.hexdigest()))
    return written


def _sidecar(
    metadata: Metadata, plan: SamplingPlan, written: list[Shard], shard_size: int, is_compiled: bool
) -> SampledSet:
    counts: dict[str, SplitCounts] = {
        SAMPLES: {"records": plan.candidates, "shards": [shard.records for shard in written]}
    }
    return SampledSet(
        source=f"samples of {metadata.preset}",
        fingerprint=fingerprint(written),
        class_names=metadata.class_names,
        splits=counts,
        samples=plan.samples,
        acceptance=plan.acceptance,
        sampling=plan.params.model_dump(),
        shard_size=shard_size,
        image_size=metadata.image_size,
        compiled=is_compiled,
    )
