"""Object stores through pyarrow, which is a dependency of TFX: TensorFlow knows neither MinIO nor S3."""

from __future__ import annotations

import functools
import os
from typing import Any

from pyarrow import fs

# Of Kubeflow's own store, unless AWS_ENDPOINT_URL says otherwise.
MINIO_ENDPOINT = "http://minio-service.kubeflow:9000"


def open_store(address: str) -> tuple[fs.FileSystem, str]:
    """The object store of an address `gs://`, `s3://` or `minio://`, and the path in it.

    Credentials are those of the process: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a role for S3 and
    MinIO, the service account for Google Cloud Storage. AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST name
    other servers.

    Raises:
      OSError: Amazon does not say the region of the bucket.
    """
    scheme, _, path = address.rstrip("/").partition("://")
    if scheme == "gs":
        kind, _, host = os.environ.get("STORAGE_EMULATOR_HOST", "").rpartition("://")
        if not host:
            return fs.GcsFileSystem(), path
        return fs.GcsFileSystem(anonymous=True, endpoint_override=host, scheme=kind or "http"), path
    region = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    server = os.environ.get("AWS_ENDPOINT_URL", MINIO_ENDPOINT if scheme == "minio" else "")
    return _s3(server, region, "" if server or region else path.partition("/")[0]), path


# Each has connections and threads of its own, and a folder of images opens each file by its address.
@functools.lru_cache(maxsize=16)
def _s3(server: str, region: str | None, bucket: str) -> fs.S3FileSystem:
    # Without threads that take all of a file into memory before it is sent.
    options: dict[str, Any] = {"background_writes": False}
    if not server:
        return fs.S3FileSystem(region=region or fs.resolve_s3_region(bucket), **options)
    kind, _, host = server.rstrip("/").rpartition("://")
    options |= {"endpoint_override": host, "scheme": kind or "https"}
    return fs.S3FileSystem(region=region or "us-east-1", **options)
