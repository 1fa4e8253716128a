"""Variants of sampling, scored on a finished run: Table 6's rows, a curve over the guidance scale.

A variant is drawn and scored by the run's own ImageSampler and GenerationEvaluator, from the artifacts that
the run's evaluation had; nothing is trained or pushed. A variant that was scored is not scored again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import tensorflow as tf
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components.dataset import DATASET, Dataset
from components.evaluators import files
from components.evaluators.generation import executor as evaluator
from components.evaluators.network_names import OWN
from components.evaluators.protocols import version
from components.image_sampler import executor as sampler
from components.metrics import registry
from components.reference_statistics import executor as reference_statistics
from components.reference_statistics.stored import REFERENCE_FILE, SPLITS, read_reference
from components.run_report import executor as report_executor
from components.run_report import folder
from components.sampled_set import SAMPLES
from serving.export.atomic import atomic_folder, make_folder, remove
from serving.export.fingerprint import fingerprint
from serving.export.sampling_params import SamplingParams
from serving.wire.errors import did_you_mean
from tfx_pipeline import code, lineage, run_lock
from tfx_pipeline.config import Config, pipeline_name

FOLDER = "sweep"
RESULT = "evaluation.json"
_ACCEPTANCE = "acceptance"
KEYS = (*SamplingParams.model_fields, _ACCEPTANCE)


class SweepError(ValueError):
    """A sweep that cannot be made; the message is one line."""


@dataclass(frozen=True)
class Variant:
    """One way to sample.

    Attributes:
      values: of the keys that are swept, by name.
      params: all of sampling.
      acceptance: the share of candidates that is kept.
    """

    values: dict[str, Any]
    params: SamplingParams
    acceptance: float


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: of the run.
      config: its configuration.
      scored: its evaluation of samples, as in `metrics.json`.
      inputs: the artifacts that this evaluation was made of.
    """

    folder: Path
    config: Config
    scored: dict[str, Any]
    inputs: dict[str, mlmd.Artifact]


def open_run(home: Path) -> Run:
    """Open the folder of a finished run on this machine.

    Raises:
      SweepError: it is none.
    """
    try:
        metrics = json.loads((home / "metrics.json").read_text())
        config = Config.model_validate(metrics["run"]["configuration"])
        store = lineage.open_store(home / "metadata.db")
        scored = lineage.last_result(store, pipeline_name(config.name), "GenerationEvaluator")
        if "reference" not in scored.inputs:
            raise SweepError(f"--run must be run again: {home} is of an earlier release, without a reference")
        inputs = {name: scored.inputs[name] for name in ("examples", "reference", "model", "classifier")}
        newest = report_executor.read_evaluation(scored.outputs["evaluation"].uri)
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise SweepError(f"--run must be the folder of a finished run, got {home}") from error
    if newest != metrics["generation"]:
        raise SweepError(
            f"--run must be a run that has ended; a later one in {home} has scored another model and wrote "
            "no report: run it to its end"
        )
    for artifact in inputs.values():
        if not tf.io.gfile.isdir(artifact.uri):
            raise SweepError(
                f"--run must be where it was made, with its artifacts; {artifact.uri} is missing"
            )
    return Run(home, config, metrics["generation"], inputs)


def variants(config: Config, given: Sequence[str]) -> list[Variant]:
    """Every combination of the values of the keys, the last one changing fastest.

    Args:
      config: the run's, whose values the other keys keep.
      given: `key=value,value`, one a key.

    Raises:
      SweepError: an unknown key, or a value that it cannot have.
    """
    swept: dict[str, list[str]] = {}
    for text in given:
        key, _, listed = text.partition("=")
        if key not in KEYS:
            raise SweepError(f"--sweep must be of {', '.join(KEYS)}, got {key!r}{did_you_mean(key, KEYS)}")
        if key in swept or not all(listed.split(",")):
            raise SweepError(f"--sweep must be KEY=VALUE,VALUE once a key, got {text!r}")
        swept[key] = listed.split(",")
    tree = config.model_dump(mode="json")
    generation = tree["evaluation"]["generation"]
    before = generation["sampling"]
    found = []
    for row in itertools.product(*swept.values()):
        values = dict(zip(swept, row, strict=True))
        generation["acceptance"] = values.get(_ACCEPTANCE, config.evaluation.generation.acceptance)
        generation["sampling"] = {**before, **{k: v for k, v in values.items() if k != _ACCEPTANCE}}
        try:
            # The whole of it: guidance needs a model that was trained for it.
            made = Config.model_validate(tree).evaluation.generation
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise SweepError(f"--sweep: {where or 'the run'}: {first['msg']}") from None
        kept = {**made.sampling.model_dump(), _ACCEPTANCE: made.acceptance}
        found.append(Variant({key: kept[key] for key in swept}, made.sampling, made.acceptance))
    return found


def score(run: Run, one: Variant, *, samples: int, features: str) -> dict[str, Any]:
    """The evaluation of a variant, as GenerationEvaluator writes it; drawn and scored if it is new.

    Args:
      run: a finished one.
      one: how to sample.
      samples: how many images.
      features: the feature network (`components.evaluators.network_names`).

    Raises:
      ProtocolError: the network is not there.
      ValueError: the model cannot sample so.
    """
    settings = run.config.evaluation.generation
    network = "" if features == OWN else version(features)
    decisive = [
        one.params.model_dump(),
        one.acceptance,
        samples,
        features,
        network,
        *(
            fingerprint(path_utils.serving_model_path(run.inputs[name].uri))
            for name in ("model", "classifier")
        ),
        Dataset.read(run.inputs["examples"].uri).fingerprint,
        code.reached_from(sampler.__name__, reference_statistics.__name__, evaluator.__name__).fingerprint,
    ]
    digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
    place = run.folder / FOLDER / digest
    if not (place / RESULT).exists():
        inputs = {name: [_artifact(artifact)] for name, artifact in run.inputs.items()}
        inputs["reference"] = [_reference(run, features, network)]
        drawn = _output(standard_artifacts.Examples, place / "samples")
        _draw(run, one, samples, place, drawn)
        scored = _output(standard_artifacts.ModelEvaluation, place / "scored")
        blessing = _output(standard_artifacts.ModelBlessing, place / "blessing")
        for artifact in (scored, blessing):
            make_folder(artifact.uri)
        evaluator.Executor(_context(run, "GenerationEvaluator")).Do(
            {**inputs, "samples": [drawn]},
            {"evaluation": [scored], "blessing": [blessing]},
            {
                "batch_size": settings.batch_size,
                "thresholds": "{}",
                "features": features,
                "features_version": network,
            },
        )
        # Last, and whole: a killed sweep goes on from the images that it has drawn.
        os.replace(Path(scored.uri) / files.EVALUATION_FILE, place / RESULT)
        for artifact in (drawn, scored, blessing):
            remove(artifact.uri)
        remove(str(place / "drawn"))
    return json.loads((place / RESULT).read_text())


def _reference(run: Run, features: str, network: str) -> Artifact:
    """The real images in these features: the run's own, or computed once for all variants."""
    own = _artifact(run.inputs["reference"])
    unchanged = features == OWN or read_reference([own])["weights"] == network
    if features == run.config.evaluation.features and unchanged:
        return own
    executor = reference_statistics.Executor
    classifier = fingerprint(path_utils.serving_model_path(run.inputs["classifier"].uri))
    decisive = [
        features,
        network,
        classifier,
        Dataset.read(run.inputs["examples"].uri).fingerprint,
        code.reached_from(executor.__module__).fingerprint,
    ]
    digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
    made = _output(standard_artifacts.ExampleStatistics, run.folder / FOLDER / f"reference-{digest}")
    # Its description is written last.
    if not (Path(made.uri) / REFERENCE_FILE).exists():
        with atomic_folder(made.uri):
            executor(_context(run, "ReferenceStatistics")).Do(
                {name: [_artifact(run.inputs[name])] for name in ("examples", "classifier")},
                {"reference": [made]},
                {
                    "image_size": run.config.data.image_size,
                    "batch_size": run.config.evaluation.reconstruction.batch_size,
                    "features": features,
                    "features_version": network,
                },
            )
    made.split_names = artifact_utils.encode_split_names(list(SPLITS))
    return made


def report(run: Run, rows: Sequence[tuple[Variant, dict[str, Any]]]) -> str:
    """Add variants to the run's report and `metrics.json`; return a line that says where, or why not.

    Raises:
      ReportError: the report is damaged.
      RunningError: a run uses the folder.
    """
    variants = [{"values": one.values, **evaluation} for one, evaluation in rows]
    with run_lock.hold(run.folder, keep=True):
        if folder.add_variants(str(run.folder), run.scored, variants):
            return f"report: {run.folder / 'report' / 'index.html'}"
    return f"{run.folder} has become the run of another model, whose report has no place for these variants"


def _draw(run: Run, one: Variant, samples: int, folder: Path, drawn: Artifact) -> None:
    """Draw the samples of a variant into an artifact, unless a killed sweep has done it."""
    drawn.split_names = artifact_utils.encode_split_names([SAMPLES])
    if (Path(drawn.uri) / DATASET).exists():
        return
    settings = run.config.evaluation.generation
    sampler.Executor(_context(run, "ImageSampler")).Do(
        {"model": [_artifact(run.inputs["model"])]},
        {"examples": [drawn]},
        {
            "samples": samples,
            "acceptance": one.acceptance,
            "sampling": one.params.model_dump_json(),
            "shard_size": settings.shard_size,
            "batch_size": settings.batch_size,
            "drawn": str(folder / "drawn"),
            "pushed": "",
        },
    )


def table(rows: Sequence[tuple[Variant, dict[str, Any]]]) -> Iterator[str]:
    """Lines of columns: what was swept, and every score with its interval."""
    known = [metric.name for metric in registry.GENERATION if not metric.deviation_of]
    scores = [name for name in known if any(name in evaluation["metrics"] for _, evaluation in rows)]
    keys = list(rows[0][0].values)
    cells = [
        [*keys, *scores],
        *(
            [*(f"{one.values[key]}" for key in keys), *(_shown(evaluation, name) for name in scores)]
            for one, evaluation in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _shown(evaluation: dict[str, Any], name: str) -> str:
    value = evaluation["metrics"].get(name)
    if value is None:
        return "-"
    ends = evaluation["intervals"].get(name)
    return f"{value:.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends else "")


def _artifact(stored: mlmd.Artifact) -> Artifact:
    kinds = {
        kind.TYPE_NAME: kind
        for kind in (
            standard_artifacts.Examples,
            standard_artifacts.Model,
            standard_artifacts.ExampleStatistics,
        )
    }
    made = kinds[stored.type]()
    made.set_mlmd_artifact(stored)
    return made


def _output(kind: type[Artifact], folder: Path) -> Artifact:
    made = kind()
    made.uri = str(folder)
    return made


def _context(run: Run, step: str) -> base_beam_executor.BaseBeamExecutor.Context:
    flags: list[Any] = [*run.config.beam.flags(step)]
    return base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=flags)
