"""What Kubeflow would refuse, or accept and fail on later; said before anything is compiled.

Light to import, unlike the compiler.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tfx_pipeline import beam
from tfx_pipeline.config import ConfigError
from tfx_pipeline.kubeflow import addresses
from tfx_pipeline.kubeflow.platform import IMAGE

# Kubeflow names pods after the pipeline.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
# KFP passes the keys of tasks on to Argo as they are (argocompiler/dag.go).
_TASK = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
# Beam's runners whose workers are threads or processes of the pod.
_RUNNERS = ("FnApiRunner", "DirectRunner")


def check_arguments(image: str, output: str, *, run: str | None, pipeline_root: str | None) -> None:
    """Check what `compile` was given.

    Raises:
      ConfigError: the first that Kubeflow would not take.
    """
    if Path(output).suffix not in (".yaml", ".yml"):
        raise ConfigError(f"output must be a file ending in .yaml or .yml, got {output!r}")
    if not re.fullmatch(IMAGE, image):
        raise ConfigError(
            "image must be repository:tag or repository@sha256:digest, the repository in lower case, "
            f"got {image!r}"
        )
    if run and (problem := addresses.folder_problem(run)):
        raise ConfigError(f"run {problem}")
    if pipeline_root is not None and (problem := addresses.root_problem(pipeline_root)):
        raise ConfigError(f"pipeline-root {problem}")


def check_beam(flags: Sequence[str]) -> None:
    """Check that Beam's work stays in the pod: the disk that artifacts are mirrored on is the pod's.

    Raises:
      ConfigError: the flags name a runner whose workers are elsewhere.
    """
    for runner in beam.runners(flags):
        if runner not in _RUNNERS:
            raise ConfigError(
                f"beam must be one of {', '.join(_RUNNERS)} on Kubeflow, in the pod itself, got {runner!r}"
            )


def check_names(pipeline: str, tasks: Iterable[str]) -> None:
    """Check the names that Kubernetes and Argo get.

    Raises:
      ConfigError: the first that they would not take.
    """
    if not _NAME.fullmatch(pipeline):
        raise ConfigError(f"name must be 1 to 128 of a-z, 0-9 and -, not starting with -, got {pipeline!r}")
    for task in tasks:
        if not _TASK.fullmatch(task):
            raise ConfigError(f"a component's id must be of letters, digits and -, got {task!r}")
