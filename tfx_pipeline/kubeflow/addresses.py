"""Addresses in object stores, and where the launcher mirrors them on a pod's disk.

It downloads inputs before the command and uploads outputs after it (`LocalPathForURI` in kubeflow/pipelines,
backend/src/v2/component/launcher_v2.go). Executors work on these paths, for every store alike: TensorFlow
knows neither MinIO nor S3; and on Google Cloud Storage both it and TFX leave directory markers, empty objects
that the next download takes for files (kubeflow/pipelines#13476).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Where the launcher keeps what it mirrors.
MOUNTS: Mapping[str, str] = {"gs": "/gcs", "minio": "/minio", "s3": "/s3"}

_ADDRESS = re.compile(
    r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[a-z0-9][a-z0-9._-]{1,221}[a-z0-9])(/[\w./:=+@-]*)?"
)
_PATH = re.compile(r"/[\w./:=+@-]*")


def on_disk(address: str) -> str:
    """The path at which the launcher mirrors an address; a path stays as it is."""
    scheme, separator, rest = address.partition("://")
    return f"{MOUNTS[scheme]}/{rest}" if separator else address


def problem(folder: str) -> str:
    """Why a folder cannot be a run's, or ""."""
    if _PATH.fullmatch(folder):
        return ""
    found = _ADDRESS.fullmatch(folder)
    if found and found["scheme"] in MOUNTS:
        return ""
    return (
        f"must be {', '.join(f'{scheme}://BUCKET/FOLDER' for scheme in MOUNTS)} with the name of a bucket, "
        f"or the absolute path of a volume, got {folder!r}"
    )


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
