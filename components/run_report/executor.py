"""RunReport's executor: makes the report from the artifacts of a run."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib import metadata as distributions
from typing import Any

from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils

from components.dataset import Dataset
from components.evaluators import files
from components.evaluators.generation.executor import SAMPLES_FILE
from components.evaluators.generation.neighbours import NEIGHBOURS_FILE
from components.evaluators.reconstruction import shown
from components.run_report import folder, warnings
from components.run_report.page import EVALUATIONS, STAGES
from components.run_report.report import Report

HISTORY_FILE = "history.jsonl"
ALARMS_FILE = "alarms.json"
LIBRARIES = ("tfx-vim", "tensorflow", "keras", "tfx", "apache-beam", "numpy", "scikit-learn")


class Executor(base_executor.BaseExecutor):
    """Executor of RunReport."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the report into its artifact and into the run's folder.

        Args:
          input_dict: `examples`; `reconstruction`, `generation`, `linear_probe` (evaluations);
            `vim_run`, and `tokenizer_run`, `classifier_run` if the run trained them (model runs).
          output_dict: `report`.
          exec_properties: `config` (JSON), `code` (fingerprint), `output_dir` (empty to write only the
            artifact).
        """
        uris = {name: artifact_utils.get_single_uri(artifacts) for name, artifacts in input_dict.items()}
        config, dataset = json.loads(exec_properties["config"]), Dataset.read(uris["examples"])
        runs = {stage: uris[f"{stage}_run"] for stage in STAGES if f"{stage}_run" in uris}
        origin = {
            "preset": config["name"],
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "data": dataset.fingerprint,
            "code": exec_properties["code"],
            "versions": {name: distributions.version(name) for name in LIBRARIES},
            "configuration": config,
        }
        evaluations = {name: read_evaluation(uris[name]) for name in EVALUATIONS}
        histories = {stage: _read_history(uri) for stage, uri in runs.items()}
        alarms = {stage: files.read_json(os.path.join(uri, ALARMS_FILE)) for stage, uri in runs.items()}
        codes = files.read_arrays(os.path.join(uris["reconstruction"], shown.CODES_FILE))
        report = Report(
            config=config,
            dataset=dataclasses.asdict(dataset),
            metrics={
                **evaluations,
                **_likelihood(histories, config, len(codes["counts"])),
                "warnings": warnings.find(evaluations, histories, config, alarms),
                "run": origin,
            },
            histories=histories,
            alarms=alarms,
            samples=files.read_arrays(os.path.join(uris["generation"], SAMPLES_FILE)),
            pairs=files.read_arrays(os.path.join(uris["reconstruction"], shown.PAIRS_FILE)),
            ranked=files.read_arrays(os.path.join(uris["reconstruction"], shown.RANKED_FILE)),
            codes=codes,
            neighbours=files.read_arrays(os.path.join(uris["generation"], NEIGHBOURS_FILE)),
        )
        artifact_uri = artifact_utils.get_single_uri(output_dict["report"])
        folder.write(artifact_uri, report)
        if exec_properties["output_dir"]:
            folder.publish(artifact_uri, exec_properties["output_dir"])


def read_evaluation(uri: str) -> dict[str, Any]:
    """Read scores, protocol and counts into one dict, as in `metrics.json`."""
    evaluation = files.read_json(os.path.join(uri, files.EVALUATION_FILE))
    return {**evaluation.pop("metrics"), **evaluation}


def _read_history(uri: str) -> list[dict[str, Any]]:
    """Read the training log, one dict per logged step."""
    lines = files.read_bytes(os.path.join(uri, HISTORY_FILE)).decode().splitlines()
    return [json.loads(line) for line in lines]


def _likelihood(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], config: Mapping[str, Any], codes: int
) -> dict[str, Any]:
    """The held-out loss of the image model's exported weights, in bits a token; none if it never had one."""
    held_out = [row for row in histories["vim"] if row.get("eval_loss") is not None]
    if not held_out:
        return {}
    best = config["stage2"].get("train", {}).get("export") == "best"
    row = min(held_out, key=lambda row: row["eval_loss"]) if best else held_out[-1]
    return {
        "likelihood": {
            "bits_per_token": row["eval_loss"] / math.log(2),
            "guessing": math.log2(codes),
            "step": row["step"],
            "split": "eval",
        }
    }
