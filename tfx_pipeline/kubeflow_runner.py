"""Compiles the pipeline for Kubeflow Pipelines v2: a PipelineSpec, schema 2.1.0, as YAML.

Nothing runs here and no cluster is asked: the file is what `kfp` and the Pipelines UI upload.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from tfx import v1 as tfx
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from serving.export.atomic import write_atomic
from tfx_pipeline.config import ConfigError

ENTRYPOINT = ("python", "-m", "tfx_pipeline.kubeflow_entrypoint")

# Kubeflow names pods after the pipeline.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")


def compile_pipeline(
    pipeline: tfx.dsl.Pipeline, image: str, output: str, pipeline_root: str | None = None
) -> None:
    """Writes `pipeline` as the file `output`, whole or not at all.

    Args:
      pipeline: the graph; its own pipeline root, which is this machine's, stays out of the file.
      image: the container image of every component, as REPOSITORY:TAG (the `Dockerfile` builds it).
      output: a local path ending in .yaml or .yml, the only kinds that Kubeflow uploads as they are.
      pipeline_root: where runs keep their artifacts, such as gs://BUCKET/FOLDER; None leaves it to
        the installation or to the run.

    Raises:
      ConfigError: a name or a path that Kubeflow would refuse.
    """
    path = Path(output)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"output {output!r}: Kubeflow Pipelines takes a file ending in .yaml or .yml")
    name = pipeline.pipeline_info.pipeline_name
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r}: Kubeflow Pipelines allows a-z, 0-9 and -, and no - in front")

    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            default_image=image,
            default_commands=list(ENTRYPOINT),
            use_pipeline_spec_2_1=True,  # the only schema that open-source Kubeflow Pipelines takes
        )
    )
    # The job around the specification is Vertex AI's; open-source Kubeflow reads the latter alone.
    specification = runner.run(pipeline, write_out=False)["pipelineSpec"]
    if pipeline_root is not None:
        specification["defaultPipelineRoot"] = pipeline_root

    write_atomic(path, yaml.safe_dump(specification))
