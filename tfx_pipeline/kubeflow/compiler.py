"""Compile the pipeline for Kubeflow Pipelines v2: a PipelineSpec, schema 2.1.0, as YAML.

TFX builds the specification for Vertex AI. Here open-source Kubeflow gets what it needs instead: a command
line of ours, artifact types that it knows, and pipeline parameters. No cluster is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from tfx import v1 as tfx
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from serving.export.atomic import write_atomic
from tfx_pipeline import code
from tfx_pipeline.kubeflow import checks, parameters, platform, ui_outputs
from tfx_pipeline.kubeflow.platform import Platform
from tfx_pipeline.kubeflow.task import Task

ENTRYPOINT = ("python", "-m", "tfx_pipeline.kubeflow.entrypoint")

# Kubeflow's own artifact types, which its UI knows, for those of TFX; the others are plain artifacts.
_SYSTEM_TYPES = {
    "tfx.Examples": "system.Dataset",
    "tfx.Model": "system.Model",
    "tfx.PushedModel": "system.Model",
}
# The sub-folders that are fetched before a component runs: what training and drawing go on from, and models
# for a server.
_KEPT = re.compile(rf"{parameters.STAND_INS[parameters.RUN_FOLDER]}/((?:checkpoints|logs)/\w+)")
_SERVED = re.compile(rf"{parameters.STAND_INS[parameters.SERVING_FOLDER]}/(\w+)")
# It writes to the folder for a server; whatever else names that folder reads there.
_PUSHER = "components.pusher.executor.Executor"


def compile_pipeline(
    pipeline: tfx.dsl.Pipeline,
    image: str,
    output: str,
    *,
    defaults: Mapping[str, str | int],
    pods: Platform = Platform(),
    pipeline_root: str | None = None,
) -> None:
    """Write `pipeline` to the file `output`, atomically.

    Args:
      pipeline: the graph, built with `parameters.STAND_INS` for what a run chooses.
      image: the container image of every component, as REPOSITORY:TAG (the `Dockerfile` builds it).
      output: a local path ending in .yaml or .yml, the only kinds that Kubeflow uploads unchanged.
      defaults: of the pipeline's parameters.
      pods: what the tasks' pods get.
      pipeline_root: folder of the runs' artifacts, such as gs://BUCKET/FOLDER; if None, that of the
        installation or of the run.

    Raises:
      ConfigError: a name or a path that Kubeflow would reject.
    """
    checks.check_arguments(
        image, output, run=str(defaults[parameters.RUN_FOLDER]), pipeline_root=pipeline_root
    )
    checks.check_names(
        pipeline.pipeline_info.pipeline_name, [component.id for component in pipeline.components]
    )

    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            default_image=image,
            use_pipeline_spec_2_1=True,  # the only schema that open-source Kubeflow Pipelines accepts
        )
    )
    # The enclosing job is for Vertex AI; open-source Kubeflow reads only the specification.
    specification = _renamed(runner.run(pipeline, write_out=False)["pipelineSpec"])
    codes = {component.id: code.run_by(component).fingerprint for component in pipeline.components}
    used = {key for task in codes for key in _adapt(specification, task, codes[task])}
    specification["root"]["inputDefinitions"] = {
        "parameters": {
            key: {"parameterType": parameters.TYPES[key], "defaultValue": defaults[key], "isOptional": True}
            for key in sorted(used)
        }
    }
    if pipeline_root is not None:
        specification["defaultPipelineRoot"] = pipeline_root
    documents = [specification]
    if entries := _give_pods(specification, pods):
        documents.append(platform.document(entries))

    write_atomic(output, yaml.safe_dump_all(documents))


def _give_pods(specification: dict[str, Any], pods: Platform) -> dict[str, Any]:
    """Write resources into the tasks; return the entries of the platform specification."""
    entries = {}
    for name, task in specification["root"]["dag"]["tasks"].items():
        label = f"exec-{name}"
        pod = pods.pod(name)
        platform.apply(pod, task, specification["deploymentSpec"]["executors"][label]["container"])
        if entry := platform.kubernetes(pod):
            entries[label] = entry
    return entries


def _renamed(specification: dict[str, Any]) -> dict[str, Any]:
    """Name components and executors as kfp's own compiler does: kfp.local cuts off five letters, `comp-`."""
    executors = specification["deploymentSpec"]["executors"]
    for component in specification["components"].values():
        label = component["executorLabel"]
        component["executorLabel"] = f"exec-{label.removesuffix('_executor')}"
        executors[component["executorLabel"]] = executors.pop(label)
    specification["components"] = {f"comp-{name}": one for name, one in specification["components"].items()}
    for name, task in specification["root"]["dag"]["tasks"].items():
        task["componentRef"]["name"] = f"comp-{name}"
    return specification


def _adapt(specification: dict[str, Any], name: str, fingerprint: str) -> list[str]:
    """Make TFX's task one that the entry point runs; return the names of the parameters that it takes."""
    definition = specification["components"][f"comp-{name}"]
    task = specification["root"]["dag"]["tasks"][name]
    container = specification["deploymentSpec"]["executors"][definition["executorLabel"]]["container"]
    inputs, outputs = (definition.setdefault(key, {}) for key in ("inputDefinitions", "outputDefinitions"))
    consumed, produced = _types(inputs), _types(outputs)
    produced |= ui_outputs.added_to(list(produced))
    for side, types in ((inputs, consumed), (outputs, produced)):
        if types:
            side["artifacts"] = {key: {"artifactType": _system_type(title)} for key, title in types.items()}

    properties, used = _take_parameters(task, inputs)
    class_path, beam_flags = _executor(container.pop("args"))
    kept, served = _found(_KEPT, properties), _found(_SERVED, properties)
    pushes = class_path == _PUSHER
    reads = () if pushes else served
    resumes = any(part.startswith("checkpoints/") for part in kept)
    if parameters.RUN_FOLDER in used and not resumes and not reads:
        # What is pushed and reported belongs to this run's folder, whatever an earlier run has in its own.
        task["cachingOptions"] = {}

    described = Task(
        name=name,
        executor=class_path,
        inputs=consumed,
        outputs=produced,
        parameters={key: one["parameterType"] for key, one in inputs.get("parameters", {}).items()},
        folders=served if pushes else kept,
        reads=reads,
        code=fingerprint,
    )
    container["command"] = list(ENTRYPOINT)
    container["args"] = ["--task", described.to_json(), "--executor-input", "{{$}}", *beam_flags]
    return used


def _take_parameters(task: dict[str, Any], inputs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Give a task the parameters that its properties depend on; return these properties and the names."""
    given = task.setdefault("inputs", {}).setdefault("parameters", {})
    properties = {key: one["runtimeValue"]["constant"] for key, one in given.items()}
    used = parameters.used_in(properties)
    for name in used:
        key = f"{parameters.PREFIX}{name}"
        given[key] = {"componentInputParameter": name}
        inputs.setdefault("parameters", {})[key] = {"parameterType": parameters.TYPES[name]}
    return properties, used


def _found(pattern: re.Pattern[str], properties: Mapping[str, Any]) -> tuple[str, ...]:
    texts = [text for text in properties.values() if isinstance(text, str)]
    return tuple(sorted({part for text in texts for part in pattern.findall(text)}))


def _types(side: Mapping[str, Any]) -> dict[str, str]:
    """The classes of a component's artifacts, as TFX writes them, such as `tfx.Model`."""
    return {
        key: str(yaml.safe_load(one["artifactType"]["instanceSchema"])["title"])
        for key, one in side.get("artifacts", {}).items()
    }


def _executor(args: list[str]) -> tuple[str, list[str]]:
    """The class path and the flags for Beam in the command line that TFX wrote."""
    known = {args[index]: args[index + 1] for index in (0, 2, 4)}
    return known["--executor_class_path"], args[6:]


def _system_type(title: str) -> dict[str, str]:
    known = title if title.startswith("system.") else _SYSTEM_TYPES.get(title, "system.Artifact")
    return {"schemaTitle": known, "schemaVersion": "0.0.1"}
