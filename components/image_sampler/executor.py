"""ImageSampler's executor: draws the shards that are missing, and hands over the whole set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from rich.console import Console
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils
from tfx.utils import path_utils

from components import pushed_model, saved_model
from components.examples_artifact import describe_artifact
from components.image_sampler.shards import DrawShards, Shards
from components.sampled_set import PUSHED, SAMPLES, SampledSet, SamplingPlan
from components.saved_model import SavedModel, signature_outputs
from components.tfrecords import Shard, count_records, fingerprint, read_records
from serving.export import compiled
from serving.export import fingerprint as of_model
from serving.export.atomic import DRAFT, atomic_folder, copy_file, make_folder, remove
from serving.export.metadata import Metadata
from serving.export.sampling_params import SamplingParams


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
            `batch_size`, `drawn` (folder for shards), `pushed` (folder of pushed versions, or "").

        Raises:
          ValueError: the model cannot draw what is planned.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        output = artifact_utils.get_single_instance(output_dict["examples"])
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        metadata = Metadata.read(model) or SavedModel(model).metadata()
        plan = SamplingPlan(
            samples=exec_properties["samples"],
            classes=len(metadata.class_names),
            acceptance=exec_properties["acceptance"],
            params=SamplingParams.model_validate_json(exec_properties["sampling"]),
        )
        _check(plan, model)
        wanted = {plan.params.signature: ("image_bytes", "tokens")}
        pushed = pushed_model.find(exec_properties["pushed"], metadata, wanted)
        if pushed.path and os.environ.get("TPU_NAME"):
            pushed = pushed._replace(problem="which has no compiled program for a TPU")
        models = {SAMPLES: model}
        if pushed.path and not pushed.problem:
            models[PUSHED] = pushed.path
        size = exec_properties["shard_size"]
        programs = {SAMPLES: _program(model), PUSHED: ""}
        drawn = {}
        for split, path in models.items():
            program = programs[split]
            # Products of a compiled program have as many rows as a batch, and last bits that depend on it.
            rows = exec_properties["batch_size"] if program else 0
            folder = os.path.join(exec_properties["drawn"], _digest(plan, program or path, size, rows))
            drawn[split] = Shards(folder, split, tuple(plan.shards(size)))
        _remove_others(exec_properties["drawn"], [shards.folder for shards in drawn.values()])
        try:
            for split, path in models.items():
                self._draw(
                    DrawShards(
                        path,
                        programs[split],
                        plan,
                        drawn[split],
                        shard_size=size,
                        batch_size=exec_properties["batch_size"],
                    ),
                    drawn[split],
                )
        finally:
            saved_model.release()
        with atomic_folder(output.uri):
            written = [
                shard for split, shards in drawn.items() for shard in _hand_over(shards, split, output.uri)
            ]
            SampledSet(
                source=f"samples of {metadata.preset}",
                fingerprint=fingerprint(written),
                class_names=metadata.class_names,
                splits=count_records(written, list(drawn)),
                samples=plan.samples,
                acceptance=plan.acceptance,
                sampling=plan.params.model_dump(),
                shard_size=size,
                image_size=metadata.image_size,
                compiled=bool(programs[SAMPLES]),
                pushed=pushed.version,
                pushed_problem=pushed.problem,
            ).write(output.uri)
        describe_artifact(output, list(drawn))
        for shards in drawn.values():
            remove(shards.folder)

    def _draw(self, draw: DrawShards, shards: Shards) -> None:
        make_folder(shards.folder)
        for draft in tf.io.gfile.glob(os.path.join(shards.folder, f"{DRAFT}*")):
            remove(draft)  # of a killed run
        missing = shards.missing()
        if len(missing) < len(shards.counts):
            Console(stderr=True).print(
                f"{shards.title}: resuming with {len(missing)} of {len(shards.counts)} shards to draw"
            )
        if missing:
            with self._make_beam_pipeline() as pipeline:
                _ = pipeline | beam.Create(missing) | beam.Reshuffle() | beam.ParDo(draw)


def _remove_others(drawn: str, folders: Sequence[str]) -> None:
    """Remove what a killed run has drawn of another plan or model: nothing goes on from it any more."""
    kept = {os.path.basename(folder) for folder in folders}
    names = tf.io.gfile.listdir(drawn) if tf.io.gfile.isdir(drawn) else []
    for name in names:
        if name.rstrip("/") not in kept:
            remove(os.path.join(drawn, name.rstrip("/")))


def _program(model: str) -> str:
    """The folder of the compiled program beside a model; "" if it has none."""
    program = compiled.beside(model)
    return program if tf.io.gfile.exists(program) else ""


def _check(plan: SamplingPlan, model: str) -> None:
    """Check that the model can do what is planned, before anything is drawn."""
    params = plan.params
    if params.signature not in signature_outputs(model):
        raise ValueError(
            "evaluation.generation.sampling.guidance_schedule must be constant for this model, which has no "
            f"signature {params.signature}, got {params.guidance_schedule}"
        )
    if plan.acceptance < 1 and not plan.classes:
        raise ValueError(
            "evaluation.generation.acceptance must be 1.0 for a model which has no classes, got "
            f"{plan.acceptance}"
        )


def _digest(plan: SamplingPlan, model: str, shard_size: int, rows: int) -> str:
    """A digest of all that the images depend on, and their places in shards."""
    decisive = [plan.samples, plan.acceptance, plan.params.model_dump(), shard_size, rows]
    text = json.dumps([*decisive, of_model.fingerprint(model)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _hand_over(shards: Shards, split: str, uri: str) -> list[Shard]:
    """Copy the shards to a split of the artifact, each read once more to its end."""
    folder = os.path.join(uri, f"Split-{split}")
    make_folder(folder)
    written = []
    for number, count in enumerate(shards.counts):
        source = shards.path(number)
        digest = hashlib.sha256()
        for record in read_records(source, count):
            digest.update(hashlib.sha256(record).digest())
        copy_file(source, os.path.join(folder, os.path.basename(source)))
        written.append(Shard(split, number, count, digest.hexdigest()))
    return written
