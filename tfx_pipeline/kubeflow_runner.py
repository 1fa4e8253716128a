"""Compile the pipeline for Kubeflow Pipelines v2: a PipelineSpec, schema 2.1.0, as YAML.

No cluster is needed; `kfp` or the Pipelines UI uploads the file.
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
    """Write `pipeline` to the file `output`, atomically.

    Args:
      pipeline: the graph; its pipeline root, which is on this machine, is left out of the file.
      image: the container image of every component, as REPOSITORY:TAG (the `Dockerfile` builds it).
      output: a local path ending in .yaml or .yml, the only kinds that Kubeflow uploads unchanged.
      pipeline_root: folder of the runs' artifacts, such as gs://BUCKET/FOLDER; if None, that of the
        installation or of the run.

    Raises:
      ConfigError: a name or a path that Kubeflow would reject.
    """
    path = Path(output)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"output must be a file ending in .yaml or .yml, got {output!r}")
    name = pipeline.pipeline_info.pipeline_name
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name must be 1 to 128 of a-z, 0-9 and -, not starting with -, got {name!r}")

    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            default_image=image,
            default_commands=list(ENTRYPOINT),
            use_pipeline_spec_2_1=True,  # the only schema that open-source Kubeflow Pipelines accepts
        )
    )
    # The enclosing job is for Vertex AI; open-source Kubeflow reads only the specification.
    specification = runner.run(pipeline, write_out=False)["pipelineSpec"]
    if pipeline_root is not None:
        specification["defaultPipelineRoot"] = pipeline_root

    write_atomic(path, yaml.safe_dump(specification))
