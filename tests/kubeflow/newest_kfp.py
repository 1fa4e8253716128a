"""Hold a compiled file against the newest kfp, and run it with kfp.local; in an environment of its own.

    python newest_kfp.py check FILE...          load each, and parse both documents by KFP's protos, strictly
    python newest_kfp.py run FILE ROOT PYTHON   run it, its commands with another interpreter

The newest kfp needs another protobuf than TensorFlow 2.16, so tests start this file in `.venv/kfp`.
"""

import sys
from pathlib import Path

import yaml
from google.protobuf import json_format
from kfp import components, local
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.local import subprocess_task_handler
from kfp.pipeline_spec import pipeline_spec_pb2


def check(path):
    components.load_component_from_file(path)
    specification, *rest = yaml.safe_load_all(Path(path).read_text())
    message = pipeline_spec_pb2.PipelineSpec()
    json_format.ParseDict(specification, message)
    executors = message.deployment_spec["executors"]
    for executor in executors.fields.values():
        container = json_format.MessageToDict(executor)["container"]
        json_format.ParseDict(container, pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec())
    for document in rest:
        json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec())
        entries = document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert set(entries) <= set(executors.fields)
        for entry in entries.values():
            json_format.ParseDict(entry, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def run(path, root, python):
    # SubprocessRunner refuses all but functions in Python; what it does after that check is the same.
    handler = subprocess_task_handler.SubprocessTaskHandler
    handler.validate_not_container_component = lambda self, command: None
    subprocess_task_handler.replace_python_executable = lambda command, executable: [python, *command[1:]]
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root)
    pipeline = components.load_component_from_file(path)
    pipeline()


if __name__ == "__main__":
    if sys.argv[1] == "check":
        for file in sys.argv[2:]:
            check(file)
    else:
        run(*sys.argv[2:])
