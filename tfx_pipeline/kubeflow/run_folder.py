"""The folder of a run, on an object store, kept in step with a copy on the pod's disk.

Checkpoints, logs, pushed models and the report outlive a pod, and Kubeflow mirrors none of them. Trainers,
Pusher and RunReport write to the copy; what changes there is uploaded while they run and when they end.
TensorFlow could write to Google Cloud Storage itself, but to neither MinIO nor S3, so all three go this one
way, through pyarrow, which is a dependency of TFX. A path on a volume needs none of this.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence

from pyarrow import fs

from serving.export.atomic import DRAFT, atomic_path
from serving.wire.errors import one_line
from tfx_pipeline.kubeflow.addresses import on_disk

# Seconds between two uploads. What a killed pod loses is at most this and what it had not saved.
INTERVAL = 30.0
# Of Kubeflow's own store, unless AWS_ENDPOINT_URL says otherwise.
MINIO_ENDPOINT = "http://minio-service.kubeflow:9000"
# Parts of the folder in which only names matter: a pusher counts versions and does not read them.
NAMES_ONLY = "serving"


@contextlib.contextmanager
def kept(folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Fetch parts of a run's folder to this disk, and upload what changes in it until the context ends.

    Args:
      folder: its address, or a path, which is used as it is.
      parts: sub-folders whose files are fetched, such as `checkpoints/vim`.

    Yields:
      The folder's path on this disk.
    """
    if "://" not in folder:
        yield folder
        return
    copy = Copy(folder, on_disk(folder))
    copy.fetch(parts)
    ended = threading.Event()

    def upload() -> None:
        while not ended.wait(INTERVAL):
            try:
                copy.upload()
            except OSError as error:  # the last upload raises
                logging.warning("%s must be writable, got %s", folder, one_line(error))

    uploading = threading.Thread(target=upload, name="run-folder", daemon=True)
    uploading.start()
    try:
        yield copy.path
    finally:
        ended.set()
        uploading.join()
        copy.upload()


class Copy:
    """A folder of an object store and its copy on this disk.

    Args:
      address: `SCHEME://BUCKET/FOLDER`.
      path: of the copy.

    Attributes:
      path: of the copy.
    """

    def __init__(self, address: str, path: str):
        self._store, self._base = open_store(address)
        self.path = path
        # What the store has, by path below the folder: size and time of change of the copy's file.
        self._same: dict[str, tuple[int, int]] = {}

    def fetch(self, parts: Sequence[str]) -> None:
        """Download the files of some sub-folders; those of `NAMES_ONLY` become empty files."""
        for part in parts:
            selected = fs.FileSelector(f"{self._base}/{part}", recursive=True, allow_not_found=True)
            for info in self._store.get_file_info(selected):
                if info.type != fs.FileType.File:  # a directory marker
                    continue
                name = os.path.relpath(info.path, self._base)
                target = os.path.join(self.path, name)
                with atomic_path(target) as draft, open(draft, "wb") as file:
                    if part.partition("/")[0] != NAMES_ONLY:
                        with self._store.open_input_stream(info.path) as source:
                            shutil.copyfileobj(source, file, 2**24)
                self._same[name] = _stamp(os.stat(target))

    def upload(self) -> None:
        """Upload files that are new or have changed, in the order of their changes; delete removed ones.

        So a file that says that others are whole, an index or `saved_model.pb`, comes after them.
        """
        found = {name: _stamp(state) for name, state in _files(self.path)}
        for name in sorted(found, key=lambda name: found[name][1]):
            if self._same.get(name) == found[name]:
                continue
            try:
                file = open(os.path.join(self.path, name), "rb")  # noqa: SIM115 - closed below
            except FileNotFoundError:  # an old checkpoint, removed meanwhile
                continue
            with file, self._store.open_output_stream(f"{self._base}/{name}") as target:
                shutil.copyfileobj(file, target, 2**24)
            self._same[name] = found[name]
        for name in self._same.keys() - found.keys():
            self._store.delete_file(f"{self._base}/{name}")
            del self._same[name]


def open_store(address: str) -> tuple[fs.FileSystem, str]:
    """The object store of an address, and the path in it.

    Credentials are those of the pod: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a role for S3 and
    MinIO, the service account for Google Cloud Storage. AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST name
    other servers.
    """
    scheme, _, path = address.partition("://")
    if scheme == "gs":
        server = os.environ.get("STORAGE_EMULATOR_HOST", "")
        if not server:
            return fs.GcsFileSystem(), path.rstrip("/")
        kind, _, host = server.rpartition("://")
        return fs.GcsFileSystem(anonymous=True, endpoint_override=host, scheme=kind or "http"), path.rstrip(
            "/"
        )
    server = os.environ.get("AWS_ENDPOINT_URL", MINIO_ENDPOINT if scheme == "minio" else "")
    region = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    if not server:
        return fs.S3FileSystem(region=region or fs.resolve_s3_region(path.partition("/")[0])), path.rstrip(
            "/"
        )
    kind, _, host = server.rpartition("://")
    store = fs.S3FileSystem(
        endpoint_override=host.rstrip("/"), scheme=kind or "https", region=region or "us-east-1"
    )
    return store, path.rstrip("/")


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files below a folder, relative to it, without drafts."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(DRAFT)]
        for name in names:
            if not name.startswith(DRAFT):
                path = os.path.join(place, name)
                with contextlib.suppress(FileNotFoundError):
                    yield os.path.relpath(path, folder), os.stat(path)


def _stamp(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns
