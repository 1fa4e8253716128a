"""A folder of an object store, mirrored on the pod's disk: a run's folder, or the one that a server watches.

Checkpoints, logs, pushed models and the report outlive a pod, and Kubeflow mirrors none of them. Trainers,
Pusher and RunReport write to the mirror; what changes there is uploaded while they run and when they end.
TensorFlow could write to Google Cloud Storage itself, but to neither MinIO nor S3, so all three go this one
way (`components.object_store`). A path on a volume needs none of this.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

from pyarrow import fs

from components.object_store import open_store
from serving.export.atomic import DRAFT, atomic_path, write_atomic
from serving.export.versions import SAVED_MODEL
from serving.wire.errors import one_line
from tfx_pipeline.kubeflow.addresses import local_path

# Seconds between two uploads. A killed pod loses these, the upload that ran, and what it had not saved.
INTERVAL = 30.0
# The last upload is tried so often, with so many seconds between: a whole training stands behind it.
ATTEMPTS, PAUSE = 5, 10.0


@contextlib.contextmanager
def mirrored(folder: str, parts: Sequence[str], *, names_only: bool = False) -> Iterator[str]:
    """Fetch parts of a folder to this disk, and upload what changes until the context ends.

    Args:
      folder: its address, or a path, which is used as it is.
      parts: sub-folders whose files are fetched, such as `checkpoints/vim`.
      names_only: fetch files as empty ones: a pusher counts versions and does not read them.

    Yields:
      The folder's path on this disk.

    Raises:
      Exception: the last upload has failed, `ATTEMPTS` times.
    """
    if "://" not in folder:
        yield folder
        return
    mirror = Mirror(folder, local_path(folder))
    mirror.fetch(parts, names_only=names_only)
    uploader = _Uploader(mirror)
    uploader.start()
    try:
        yield mirror.path
    finally:
        uploader.finish()


@contextlib.contextmanager
def newest_versions(folder: str, models: Sequence[str]) -> Iterator[str]:
    """Fetch the newest whole version of some models from the folder for a server, to be read.

    Args:
      folder: its address, or a path, which is used as it is.
      models: sub-folders that hold versions; without a whole one nothing is fetched.

    Yields:
      The folder's path on this disk, for the time of the context.
    """
    if "://" not in folder:
        yield folder
        return
    store, base = open_store(folder)
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            selected = fs.FileSelector(f"{base}/{model}", recursive=True, allow_not_found=True)
            files = [one.path for one in store.get_file_info(selected) if one.type == fs.FileType.File]
            names = [os.path.relpath(path, f"{base}/{model}").split("/") for path in files]
            whole = [int(name[0]) for name in names if name[0].isdecimal() and name[1:] == [SAVED_MODEL]]
            for path, name in zip(files, names, strict=True):
                if name[0].isdecimal() and int(name[0]) == max(whole, default=-1):
                    _download(store, path, os.path.join(scratch, model, *name))
        yield scratch


def _download(store: fs.FileSystem, path: str, target: str) -> None:
    with atomic_path(target) as draft, open(draft, "wb") as file, store.open_input_stream(path) as source:
        shutil.copyfileobj(source, file, 2**24)


class _Uploader(threading.Thread):
    """Uploads a mirror from time to time, and a last time when it is told to finish.

    Also that time in this thread: a signal, which interrupts the main one, then leaves no half of a file.
    """

    def __init__(self, mirror: Mirror):
        super().__init__(name="uploader", daemon=True)
        self._mirror = mirror
        self._ended = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        while not self._ended.wait(INTERVAL):
            # pyarrow raises much that is no OSError; the thread must outlive it.
            try:
                self._mirror.upload()
            except Exception as error:
                logging.warning("%s must be writable, got %s", self._mirror.address, one_line(error))
        for attempt in range(ATTEMPTS):
            try:
                self._mirror.upload()
                return
            except Exception as error:
                if attempt + 1 == ATTEMPTS:
                    self._failure = error
                else:
                    time.sleep(PAUSE)

    def finish(self) -> None:
        """Wait for the last upload."""
        self._ended.set()
        self.join()
        if self._failure:
            raise self._failure


class Mirror:
    """A folder of an object store and its copy on this disk.

    Args:
      address: `SCHEME://BUCKET/FOLDER`.
      path: of the copy.

    Attributes:
      address: of the folder.
      path: of the copy.
    """

    def __init__(self, address: str, path: str):
        self._store, self._base = open_store(address)
        self.address = address
        self.path = path
        # What the store has, by path below the folder: size and time of change of the copy's file.
        self._uploaded: dict[str, tuple[int, int]] = {}
        # Files that are not deleted in the store: another push may be writing them.
        self._names_only: set[str] = set()

    def fetch(self, parts: Sequence[str], *, names_only: bool = False) -> None:
        """Download the files of some sub-folders, or make empty files of their names."""
        for part in parts:
            selected = fs.FileSelector(f"{self._base}/{part}", recursive=True, allow_not_found=True)
            for info in self._store.get_file_info(selected):
                if info.type != fs.FileType.File:  # a directory marker
                    continue
                name = os.path.relpath(info.path, self._base)
                target = os.path.join(self.path, name)
                if names_only:
                    write_atomic(target, b"")
                else:
                    _download(self._store, info.path, target)
                self._uploaded[name] = _stamp(os.stat(target))
                if names_only:
                    self._names_only.add(name)

    def upload(self) -> None:
        """Upload files that are new or have changed, in the order of their changes; delete removed ones.

        So a file that says that others are whole, an index or `saved_model.pb`, comes after them.

        Raises:
          OSError: the copy cannot be read; nothing is deleted then.
        """
        found = {name: _stamp(state) for name, state in _files(self.path)}
        for name in sorted(found, key=lambda name: found[name][1]):
            if self._uploaded.get(name) != found[name]:
                self._upload(name)
                self._uploaded[name] = found[name]
        if not os.path.isdir(self.path):
            return
        removed = self._uploaded.keys() - found.keys() - self._names_only
        # The index first: what a kill leaves is then no checkpoint.
        for name in sorted(removed, key=lambda name: (not name.endswith(".index"), name)):
            with contextlib.suppress(FileNotFoundError):
                self._store.delete_file(f"{self._base}/{name}")
            del self._uploaded[name]

    def _upload(self, name: str) -> None:
        key = f"{self._base}/{name}"
        try:
            file = open(os.path.join(self.path, name), "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:  # an old checkpoint, removed meanwhile
            return
        with file:
            try:
                with self._store.open_output_stream(key) as target:
                    shutil.copyfileobj(file, target, 2**24)
            except BaseException:
                # Closing the stream has put half of a file there, and pyarrow has no other way to end it.
                with contextlib.suppress(Exception):
                    self._store.delete_file(key)
                raise


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files below a folder, relative to it, without drafts; what is removed meanwhile is left out.

    Raises:
      OSError: a folder cannot be read, which must not look like an empty one.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(DRAFT)]
        for name in names:
            if not name.startswith(DRAFT):
                path = os.path.join(place, name)
                with contextlib.suppress(FileNotFoundError):
                    yield os.path.relpath(path, folder), os.stat(path)


def _stamp(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns
