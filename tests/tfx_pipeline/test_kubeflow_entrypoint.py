"""Run connected components through the entry point, with the input that KFP's launcher sends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import yaml
from kfp.dsl.types import artifact_types
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

from serving.export.signatures import read_metadata
from tests.tfx_pipeline.small_graph import small_graph
from tfx_pipeline import kubeflow_entrypoint
from tfx_pipeline.kubeflow_runner import compile_pipeline

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]

# The type of an input artifact, as the launcher sends it and as kfp.local sends it.
NOTHING = {}
SYSTEM_ARTIFACT = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}


def in_process(command):
    kubeflow_entrypoint.main(kubeflow_entrypoint.parse_flags(command[2:]))


def in_container(command):
    """Run the compiled command line in a new interpreter, as close to a container as tests get."""
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


class Launcher:
    """Stand-in for KFP's `launcher_v2.go`: runs tasks one by one and keeps the artifacts between them."""

    def __init__(self, pipeline, folder, pipeline_root, input_type):
        compile_pipeline(pipeline, "image", str(folder / "pipeline.yaml"))
        self._spec = yaml.safe_load((folder / "pipeline.yaml").read_text())
        self._folder = folder
        self._pipeline_root = pipeline_root
        self._input_type = input_type
        self.artifacts = {}

    def command(self, task_name):
        """Return the command line of a task, and the output file that it must write."""
        task = self._spec["root"]["dag"]["tasks"][task_name]
        component = self._spec["components"][task_name]
        container = self._spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        inputs, wanted = task.get("inputs", {}), component.get("outputDefinitions", {})
        output_file = self._folder / task_name / "executor_output.json"
        executor_input = {
            "inputs": {
                "parameterValues": {
                    key: value["runtimeValue"]["constant"]
                    for key, value in inputs.get("parameters", {}).items()
                },
                "artifacts": {
                    key: {"artifacts": [self._as_input(value["taskOutputArtifact"])]}
                    for key, value in inputs.get("artifacts", {}).items()
                },
            },
            "outputs": {
                "artifacts": {
                    key: {
                        "artifacts": [
                            {
                                "uri": f"{self._pipeline_root}/{task_name}/{key}",
                                "type": definition["artifactType"],
                                "metadata": definition.get("metadata", {}),
                            }
                        ]
                    }
                    for key, definition in wanted.get("artifacts", {}).items()
                },
                "outputFile": str(output_file),
            },
        }
        arguments = [text.replace("{{$}}", json.dumps(executor_input)) for text in container["args"]]
        return [*container["command"], *arguments], output_file

    def _as_input(self, source):
        artifact = self.artifacts[source["producerTask"], source["outputArtifactKey"]]
        return {**artifact, "name": str(len(self.artifacts)), "type": self._input_type}

    def run(self, task_name, execute=in_process):
        command, output_file = self.command(task_name)
        said = execute(command)
        for key, reported in json.loads(output_file.read_text())["artifacts"].items():
            (self.artifacts[task_name, key],) = reported["artifacts"]
        return said


@pytest.mark.parametrize(
    ("scheme", "input_type"), [("minio://", NOTHING), ("", NOTHING), ("", SYSTEM_ARTIFACT)]
)
def test_components_receive_upstream_artifacts(tmp_path, monkeypatch, scheme, input_type):
    monkeypatch.setattr(artifact_types, "_MINIO_LOCAL_MOUNT_PREFIX", f"{tmp_path}/minio/")
    disk = f"{tmp_path}/minio/bucket" if scheme else f"{tmp_path}/bucket"
    root = f"{scheme}bucket" if scheme else disk
    launcher = Launcher(small_graph(tmp_path), tmp_path, root, input_type)
    for task in ("Writer", "ModelValidator", "Pusher"):
        launcher.run(task)

    model = launcher.artifacts["Writer", "model"]
    assert model["uri"] == f"{root}/Writer/model"
    assert model["metadata"]["classes"] == 2
    blessing = launcher.artifacts["ModelValidator", "blessing"]
    assert blessing["uri"] == f"{root}/ModelValidator/blessing"
    assert blessing["metadata"]["blessed"] == 1
    assert set(os.listdir(f"{disk}/ModelValidator/blessing")) == {"INFRA_BLESSED", "checks.json"}
    pushed = launcher.artifacts["Pusher", "pushed_model"]
    assert pushed["metadata"]["pushed"] == 1
    served = tf.saved_model.load(pushed["metadata"]["pushed_destination"])
    assert read_metadata(served).class_names == ("dark", "bright")


def test_tfx_alone_fails_on_the_launchers_input(tmp_path):
    """Why the entry point exists: once TFX accepts this input, it can shrink."""
    launcher = Launcher(small_graph(tmp_path), tmp_path, f"{tmp_path}/bucket", NOTHING)
    launcher.run("Writer")
    command, _ = launcher.command("ModelValidator")
    with pytest.raises(UnboundLocalError, match="title"):
        kubeflow_v2_run_executor.main(kubeflow_entrypoint.parse_flags(command[2:]))


def test_compiled_command_line_runs_without_log_noise(tmp_path):
    launcher = Launcher(small_graph(tmp_path), tmp_path, f"{tmp_path}/bucket", NOTHING)
    launcher.run("Writer")
    said = launcher.run("ModelValidator", in_container)
    assert launcher.artifacts["ModelValidator", "blessing"]["metadata"]["blessed"] == 1
    assert "Starting executor" in said
    for noise in ("TensorRT", "cuda", "Warning", "oneDNN"):
        assert noise not in said


def test_failing_component_raises_and_writes_no_output_file(tmp_path):
    launcher = Launcher(small_graph(tmp_path), tmp_path, f"{tmp_path}/bucket", NOTHING)
    command, output_file = launcher.command("Writer")
    broken = [text.replace('"classes": 2', '"classes": 3') for text in command]
    with pytest.raises(AssertionError):
        in_process(broken)
    assert not output_file.exists()


def test_gcs_uris_reach_the_executor_unchanged(tmp_path, monkeypatch):
    launcher = Launcher(small_graph(tmp_path), tmp_path, "gs://bucket", NOTHING)
    launcher.artifacts["Writer", "model"] = {"uri": "gs://bucket/Writer/model", "metadata": {}}
    command, output_file = launcher.command("ModelValidator")

    def run_executor(flags_and_beam_args):
        sent = json.loads(flags_and_beam_args[0].json_serialized_invocation_args)
        assert sent["inputs"]["artifacts"]["model"]["artifacts"][0]["uri"] == "gs://bucket/Writer/model"
        blessing = sent["outputs"]["artifacts"]["blessing"]["artifacts"][0]
        assert blessing["uri"] == "gs://bucket/ModelValidator/blessing"
        output_file.parent.mkdir()
        output_file.write_text(json.dumps({"artifacts": {"blessing": {"artifacts": [blessing]}}}))

    monkeypatch.setattr(kubeflow_v2_run_executor, "main", run_executor)
    monkeypatch.chdir(tmp_path)
    in_process(command)
    assert not (tmp_path / "gs:").exists()
