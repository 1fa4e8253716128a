"""Addresses in object stores, and where the launcher mirrors them on a pod's disk.

It downloads inputs before the command and uploads outputs after it (`LocalPathForURI` in kubeflow/pipelines,
backend/src/v2/component/launcher_v2.go). Executors work on these paths, for every store alike: TensorFlow
knows neither MinIO nor S3; and on Google Cloud Storage both it and TFX leave directory markers, empty objects
that the next download takes for files (kubeflow/pipelines#13476).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Where the launcher keeps what it mirrors.
MOUNTS: Mapping[str, str] = {"gs": "/gcs", "minio": "/minio", "s3": "/s3"}

_BUCKET = r"(gs|minio|s3)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_FOLDERS = r"(/[\w.:=+@-]+)+"
_FOLDER = re.compile(f"({_BUCKET})?{_FOLDERS}")
# The query names region and endpoint of a store.
_ROOT = re.compile(rf"{_BUCKET}({_FOLDERS})?/?(\?[\w.:/=&%-]*)?")


def local_path(address: str) -> str:
    """The path at which the launcher mirrors an address; a path stays as it is."""
    scheme, separator, rest = address.partition("://")
    return f"{MOUNTS[scheme]}/{rest}" if separator else address


def folder_problem(folder: str) -> str:
    """Why a folder cannot be a run's, or ""."""
    if _FOLDER.fullmatch(folder) and not {".", ".."} & set(folder.split("/")):
        return ""
    forms = ", ".join(f"{scheme}://BUCKET/FOLDER" for scheme in MOUNTS)
    return (
        f"must be {forms} with the name of a bucket, or the absolute path of a volume, and not end in /, "
        f"got {folder!r}"
    )


def root_problem(root: str) -> str:
    """Why an address cannot be the root of artifacts, or "": the launcher knows object stores only."""
    if _ROOT.fullmatch(root):
        return ""
    forms = ", ".join(f"{scheme}://BUCKET" for scheme in MOUNTS)
    return f"must be {forms} with the name of a bucket, and a folder in it if wanted, got {root!r}"


def beside_artifacts(address: str, task: str) -> str:
    """The folder of a run that was given none: beside the artifacts of its tasks.

    Args:
      address: of an output of the task, `ROOT/PIPELINE/RUN/TASK[/EXECUTION]/OUTPUT`.
      task: the task's name.
    """
    run, found, _ = address.rpartition(f"/{task}/")
    if not found:
        raise ValueError(f"an output of {task} must be in a folder of that name, got {address}")
    return f"{run}/run"


def inside(folder: str, addresses: Iterable[str]) -> list[str]:
    """The addresses that are a folder or below it."""
    return [address for address in addresses if f"{address}/".startswith(f"{folder}/")]
