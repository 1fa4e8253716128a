"""Object stores for tests: servers of their own on loopback, and the launcher's view of them, keys alone."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import boto3
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

BUCKET = "mlpipeline"
# What a pod gets to reach them.
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


class S3:
    """MinIO's and Amazon's: moto's server."""

    def __init__(self, server):
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": server}
        session = boto3.session.Session("key", "secret", region_name="us-east-1")
        self._client = session.client("s3", endpoint_url=server)
        self._client.create_bucket(Bucket=BUCKET)

    def keys(self, prefix):
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def read(self, key):
        return self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def write(self, key, content):
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content)


class Gcs:
    """Google Cloud Storage: an emulator of it."""

    def __init__(self, server):
        self.environment = {"STORAGE_EMULATOR_HOST": server}
        client = storage.Client(
            project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": server}
        )
        self._bucket = client.create_bucket(BUCKET)

    def keys(self, prefix):
        return sorted(blob.name for blob in self._bucket.list_blobs(prefix=prefix))

    def read(self, key):
        return self._bucket.blob(key).download_as_bytes()

    def write(self, key, content):
        self._bucket.blob(key).upload_from_string(content)


@contextmanager
def serve(scheme):
    """Yield an empty store of a scheme, `gs`, `minio` or `s3`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = Path(sys.executable).parent
    if scheme == "gs":
        command = [programs / "gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}"]
        command.append("--in-memory")
    else:
        command = [programs / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
            time.sleep(0.1)
        yield (Gcs if scheme == "gs" else S3)(f"http://127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()


def environment(store):
    """The environment of a process that reaches a store, and no proxy."""
    return {**os.environ, **store.environment, "no_proxy": "127.0.0.1"}
