"""Entry point of every container on Kubeflow Pipelines v2: run one component's executor.

TFX's own (`kubeflow_v2_run_executor`, to 1.21) is written for Vertex AI. Open-source Kubeflow sends artifacts
without their types; from 2.5 on an output `executor-logs` that is none of the component's; and paths of
its own. It also imports all of TFX, which takes more time than most components do.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

# Set before TensorFlow is imported: without a GPU its native log starts with CUDA errors that nobody
# can act on; errors that matter reach Python as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

from tfx_pipeline import native_log  # noqa: E402

native_log.quiet_import()

from tfx.utils import import_utils  # noqa: E402

from serving.export.atomic import write_atomic  # noqa: E402
from tfx_pipeline.kubeflow import addresses, artifacts, parameters, run_folder, ui_outputs  # noqa: E402
from tfx_pipeline.kubeflow.task import Task  # noqa: E402

Artifacts = dict[str, list[Any]]


def main(argv: Sequence[str]) -> None:
    """Run the component that a command line describes, on what the launcher sends.

    Args:
      argv: `--task` (JSON of a `Task`), `--executor-input` (JSON of KFP's `ExecutorInput`), and flags for
        Beam.

    Raises:
      SystemExit: the component failed; its reason, in one line, is the last of the log.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--task", required=True, type=Task.from_json)
    parser.add_argument("--executor-input", required=True, type=json.loads)
    flags, beam_flags = parser.parse_known_args(argv)
    try:
        run(flags.task, flags.executor_input, beam_flags)
    except Exception as error:
        from tfx_pipeline import failures  # which imports what only a failure needs

        traceback.print_exc()
        # The end of a pod's log is what people see first.
        sys.exit(f"{flags.task.name} failed: {failures.reason(error)}")


def run(task: Task, executor_input: Mapping[str, Any], beam_flags: Sequence[str]) -> None:
    """Run a task, and write the file from which the launcher takes its outputs.

    Args:
      task: what the compiler wrote down.
      executor_input: what the launcher sends.
      beam_flags: for a component that runs with Beam.

    Raises:
      Exception: whatever the executor raises; no file is written then.
    """
    inputs_sent, outputs_sent = executor_input.get("inputs", {}), executor_input.get("outputs", {})
    uris = {key: lists["artifacts"][0]["uri"] for key, lists in outputs_sent.get("artifacts", {}).items()}
    inputs = _artifacts(inputs_sent, task.inputs)
    # Only what the component defines: `executor-logs` is the launcher's own, and a file.
    own = {key: kind for key, kind in task.outputs.items() if not ui_outputs.is_for_ui(kind)}
    outputs = _artifacts(outputs_sent, own)
    for made in outputs.values():
        os.makedirs(made[0].uri, exist_ok=True)  # the launcher makes only the folder above it

    properties = _properties(inputs_sent.get("parameterValues", {}), task.parameters)
    prefixed = {name: f"{parameters.PREFIX}{name}" for name in parameters.TYPES}
    values = {name: properties.pop(key) for name, key in prefixed.items() if key in properties}
    pushes = parameters.SERVING_FOLDER in values and not task.reads
    folder = _folder(values, uris, task, for_server=pushes)
    served = _folder(values, uris, task, for_server=True) if task.reads else ""
    with (
        run_folder.mirrored(folder, task.folders, names_only=pushes) as path,
        run_folder.newest_versions(served, task.reads) as versions,
    ):
        if folder:
            values[parameters.SERVING_FOLDER if pushes else parameters.RUN_FOLDER] = path
        if served:
            values[parameters.SERVING_FOLDER] = versions
        _execute(task.executor, inputs, outputs, parameters.fill(properties, values), beam_flags)

    written = {
        key: {"artifacts": [{"uri": uris[key], "metadata": _with_address(properties, path, folder)}]}
        for key, properties in _replies(task, outputs, uris).items()
    }
    write_atomic(outputs_sent["outputFile"], json.dumps({"artifacts": written}))


def _replies(task: Task, outputs: Artifacts, uris: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The metadata of all outputs, the executor's and those for the UI, which are written here."""
    replies = {key: artifacts.metadata(made[0]) for key, made in outputs.items()}
    for key, kind in task.outputs.items():
        if ui_outputs.is_for_ui(kind):
            replies[key] = ui_outputs.write(kind, addresses.local_path(uris[key]), outputs)
    return replies


def _folder(values: Mapping[str, Any], uris: Mapping[str, str], task: Task, *, for_server: bool) -> str:
    """The run's folder or the one for a server, beside a task's artifacts; "" if the task needs none.

    Raises:
      ValueError: no pod could reach it, or it contains the artifacts.
    """
    if parameters.RUN_FOLDER not in values:
        return ""
    given = for_server and values.get(parameters.SERVING_FOLDER)
    name = parameters.SERVING_FOLDER if given else parameters.RUN_FOLDER
    folder = values[name] or addresses.beside_artifacts(next(iter(uris.values())), task.name)
    if problem := addresses.folder_problem(folder):
        raise ValueError(f"{name} {problem}")
    if for_server and name == parameters.RUN_FOLDER:
        folder = f"{folder}/serving"
    if found := addresses.inside(folder, uris.values()):
        raise ValueError(f"{name} must not contain the artifacts, got {folder!r} with {found[0]}")
    return str(folder)


def _artifacts(sent: Mapping[str, Any], types: Mapping[str, str]) -> Artifacts:
    lists = sent.get("artifacts", {})
    return {
        key: [artifacts.from_kubeflow(one, kind) for one in lists[key]["artifacts"]]
        for key, kind in types.items()
        if key in lists
    }


def _properties(sent: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """Parameters as Python values: JSON has no integers, so 2 may come as 2.0."""
    return {key: int(value) if types.get(key) == "NUMBER_INTEGER" else value for key, value in sent.items()}


def _execute(
    class_path: str,
    inputs: Artifacts,
    outputs: Artifacts,
    properties: dict[str, Any],
    beam_flags: Sequence[str],
) -> None:
    executor_class = import_utils.import_class_by_path(class_path)
    logging.getLogger("absl").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        # A Beam executor's context takes flags. By signature: importing its class takes a second.
        takes_flags = "beam_pipeline_args" in inspect.signature(executor_class.Context).parameters
        beam = {"beam_pipeline_args": list(beam_flags)} if takes_flags else {}
        context = executor_class.Context(tmp_dir=scratch, unique_id="task", **beam)
        executor_class(context).Do(inputs, outputs, properties)


def _with_address(properties: Mapping[str, Any], path: str, folder: str) -> dict[str, Any]:
    """Properties with the run's folder as others reach it: where a model was pushed to, for one."""

    def of(value: Any) -> Any:
        return value.replace(path, folder) if path and isinstance(value, str) else value

    return {key: of(value) for key, value in properties.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
