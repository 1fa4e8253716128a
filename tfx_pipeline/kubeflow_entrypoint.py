"""Entry point of every container on Kubeflow Pipelines v2: adapts TFX's runner to open-source Kubeflow.

TFX 1.16 to 1.21 write their container entry point for Vertex AI. The launcher of open-source
Kubeflow Pipelines passes an executor less information and uses other paths, so the second component
of any graph fails. Before TFX's own runner starts, this module fixes three things:

- An input artifact arrives without its type (or as `system.Artifact`, under `kfp.local`), which TFX
  needs to create its Python object. The type is taken from the component's own input definitions,
  compiled into the command line as `--json_serialized_inputs_spec_args`.
- Artifacts in MinIO or S3 are under /minio and /s3 on the pod's disk: the launcher downloads inputs
  to and uploads outputs from there. TensorFlow has no file system for these addresses, so executors
  get the paths, and their output gets the addresses again. gs:// stays: TensorFlow reads Google Cloud
  Storage, and Beam's workers on other machines need the real address.
- Output directories exist before an executor runs, as under TFX's local runner. (Only on disk: on
  an object store a directory is a marker that the launcher cannot download, kubeflow/pipelines#13476.)
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence

# Set before TensorFlow is imported: without a GPU its native log starts with CUDA errors that nobody
# can act on; errors that matter reach Python as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

from absl import app  # noqa: E402
from absl.flags import argparse_flags  # noqa: E402
from google.protobuf import json_format  # noqa: E402
from kfp import dsl  # noqa: E402
from kfp.pipeline_spec import pipeline_spec_pb2  # noqa: E402
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor  # noqa: E402

from serving.export.atomic import write_atomic  # noqa: E402


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split a command line into the flags of TFX's runner and the rest, which is for Beam."""
    parser = argparse_flags.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", required=True)
    return parser.parse_known_args(argv[1:])


def main(flags_and_beam_args: tuple[argparse.Namespace, list[str]]) -> None:
    """Run one component with the result of `parse_flags`; raises whatever its executor raises."""
    flags, beam_args = flags_and_beam_args
    executor_input = json_format.Parse(
        flags.json_serialized_invocation_args, pipeline_spec_pb2.ExecutorInput(), ignore_unknown_fields=True
    )
    inputs_spec = json_format.Parse(
        flags.json_serialized_inputs_spec_args,
        pipeline_spec_pb2.ComponentInputsSpec(),
        ignore_unknown_fields=True,
    )
    for key, artifact in _artifacts(executor_input.inputs.artifacts):
        artifact.type.CopyFrom(inputs_spec.artifacts[key].artifact_type)
        artifact.uri = _path(artifact.uri)
    addresses = {key: artifact.uri for key, artifact in _artifacts(executor_input.outputs.artifacts)}
    for _, artifact in _artifacts(executor_input.outputs.artifacts):
        artifact.uri = _path(artifact.uri)
        if "://" not in artifact.uri:
            os.makedirs(artifact.uri, exist_ok=True)

    flags.json_serialized_invocation_args = json_format.MessageToJson(executor_input)
    kubeflow_v2_run_executor.main((flags, beam_args))
    _give_addresses_back(executor_input.outputs.output_file, addresses)


def _artifacts(
    lists: Mapping[str, pipeline_spec_pb2.ArtifactList],
) -> Iterator[tuple[str, pipeline_spec_pb2.RuntimeArtifact]]:
    for key, artifact_list in lists.items():
        for artifact in artifact_list.artifacts:
            yield key, artifact


def _path(uri: str) -> str:
    """Return the path at which an executor finds the launcher's `uri`."""
    return uri if uri.startswith("gs://") else dsl.Artifact(uri=uri).path


def _give_addresses_back(output_file: str, addresses: Mapping[str, str]) -> None:
    """Restore the launcher's addresses in the output file that the executor wrote."""
    executor_output = pipeline_spec_pb2.ExecutorOutput()
    with open(output_file) as file:
        json_format.Parse(file.read(), executor_output)
    for key, artifact in _artifacts(executor_output.artifacts):
        artifact.uri = addresses[key]
    write_atomic(output_file, json_format.MessageToJson(executor_output))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
