"""Versions of models in a folder: discovery, loading and replacement under load.

`<base>/<model>/<integer version>/saved_model.pb`, TF Serving's layout and policy: the newest version
of each model serves. A new version is loaded beside the old one, which answers until its last request
is done; a version that does not load is reported and skipped.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import grpc
import tensorflow as tf

from serving.export.versions import model_names, no_model, versions
from serving.server.servable import Servable
from serving.wire.errors import RequestError, ServingError, not_found, one_line

# The label of every model's serving version.
STABLE = "stable"

State = Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]
# Names, sizes and modification times of a version's files: a broken version is retried once they change.
Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class VersionStatus:
    """The state of a version, in TF Serving's terms; `error` says why it did not load."""

    model: str
    version: int
    state: State
    error: RequestError | None = None


@dataclass
class _Lease:
    """A version in memory and the number of requests that use it."""

    servable: Servable
    requests: int = 0


class Model:
    """One model's folder. Thread-safe, except that only one thread may call `refresh`."""

    def __init__(self, name: str, directory: str):
        self._name = name
        self._directory = directory
        self._lock = threading.Lock()
        self._serving: _Lease | None = None
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, Fingerprint] = {}
        self._unloaded = False

    def refresh(self) -> list[VersionStatus]:
        """Serve the newest version that loads; return the versions that became available or failed."""
        news = []
        on_disk = versions(self._directory)
        self._forget(on_disk)
        for version, path in on_disk.items():
            if self._serving and version == self._serving.servable.version:
                break
            fingerprint = _fingerprint(path)
            if self._failed.get(version) == fingerprint:
                continue
            before = self._statuses.get(version)
            status = self._load(version, path)
            if status.error is None:
                news.append(status)
                break
            self._failed[version] = fingerprint
            if before is None or str(before.error) != str(status.error):
                news.append(status)
        return news

    @contextlib.contextmanager
    def lease(self, version: int | None, label: str | None) -> Iterator[Servable]:
        """Yield the serving version, kept in memory until the context ends.

        Raises:
          RequestError: NOT_FOUND if `version` or `label` asks for another one.
        """
        with self._lock:
            lease = self._find(version, label)
            lease.requests += 1
        try:
            yield lease.servable
        finally:
            with self._lock:
                lease.requests -= 1
                self._end_if_unused(lease)

    def statuses(self, version: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """Return the status of every version seen so far, newest first, or of `version` (else NOT_FOUND)."""
        with self._lock:
            if label is not None:
                version = self._find(None, label).servable.version
            found = [
                self._statuses[known]
                for known in sorted(self._statuses, reverse=True)
                if version is None or known == version
            ]
        if not found:
            raise not_found(f"version {version} of {self._name} is unknown")
        return found

    def _find(self, version: int | None, label: str | None) -> _Lease:
        if label not in (None, STABLE):
            raise not_found(f"label must be {STABLE}, got {label!r}")
        if self._serving is None:
            raise not_found(f"no version of {self._name} is served")
        allowed = self._serving.servable.version
        if version not in (None, allowed):
            raise not_found(f"version of {self._name} must be {allowed}, got {version}")
        return self._serving

    def _load(self, version: int, path: str) -> VersionStatus:
        with self._lock:
            self._note(version, "LOADING")
        try:
            servable = Servable(self._name, version, path)
        # TensorFlow raises almost any exception on a broken folder; the old version must keep serving.
        except Exception as error:
            message = f"version {version} of {self._name} does not load: {one_line(error)}"
            with self._lock:
                return self._note(version, "END", RequestError(grpc.StatusCode.INVALID_ARGUMENT, message))
        with self._lock:
            retired, self._serving = self._serving, _Lease(servable)
            status = self._note(version, "AVAILABLE")
            if retired:
                self._note(retired.servable.version, "UNLOADING")
                self._end_if_unused(retired)
        return status

    def _end_if_unused(self, lease: _Lease) -> None:
        if lease is not self._serving and not lease.requests:
            self._note(lease.servable.version, "END")
            self._unloaded = True

    def _note(self, version: int, state: State, error: RequestError | None = None) -> VersionStatus:
        self._statuses[version] = VersionStatus(self._name, version, state, error)
        return self._statuses[version]

    def _forget(self, on_disk: Collection[int]) -> None:
        with self._lock:
            for version, status in list(self._statuses.items()):
                if status.state == "END" and version not in on_disk:
                    del self._statuses[version]
                    self._failed.pop(version, None)
            unloaded, self._unloaded = self._unloaded, False
        # A SavedModel has reference cycles: without a collection its weights stay after the last request.
        if unloaded:
            gc.collect()


class ModelRepository:
    """Every model below one base folder."""

    def __init__(self, base: str):
        """Load the newest versions.

        Raises:
          ServingError: the folder holds no model, or none that loads.
        """
        self._base = base
        self._models: dict[str, Model] = {}
        news = self.refresh()
        if not self._models:
            raise ServingError(no_model(base))
        if not any(status.state == "AVAILABLE" for status in news):
            raise ServingError(f"no model in {base} loads: {news[0].error}")
        self.first_news = news

    def refresh(self) -> list[VersionStatus]:
        """Scan the folder again; return the versions that became available or failed."""
        for name in model_names(self._base):
            if name not in self._models:
                self._models[name] = Model(name, os.path.join(self._base, name))
        news: list[VersionStatus] = []
        for name, model in list(self._models.items()):
            try:
                news += model.refresh()
            # One folder that cannot be read must not keep the others from following their versions.
            except (OSError, tf.errors.OpError) as error:
                print(f"cannot look for versions of {name}: {one_line(error)}", file=sys.stderr, flush=True)
        return news

    def model(self, name: str) -> Model:
        """Return the model of that name.

        Raises:
          RequestError: NOT_FOUND if there is none.
        """
        if name not in self._models:
            raise not_found(f"model must be one of {', '.join(sorted(self._models))}, got {name!r}")
        return self._models[name]


def _fingerprint(path: str) -> Fingerprint:
    files = []
    for folder, _, names in tf.io.gfile.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            stat = tf.io.gfile.stat(file)
            files.append((file, stat.length, stat.mtime_nsec))
    return tuple(sorted(files))
