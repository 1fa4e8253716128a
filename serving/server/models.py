"""Versions of models in a folder: discovery, loading and replacement under load.

`<base>/<model>/<integer version>/saved_model.pb`, TF Serving's layout and policy: the newest version
of each model serves, unless a configuration file names others. A new version is loaded beside the old one,
which answers until its last request is done; a version that does not load is reported and skipped.
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

from serving.export.versions import no_model, versions
from serving.server import model_config
from serving.server.model_config import ModelConfig
from serving.server.servable import Servable
from serving.wire.errors import RequestError, ServingError, not_found, one_line

# The label of every model's newest version, unless its configuration gives it to another.
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

    def __init__(self, config: ModelConfig):
        self._config = config
        self._lock = threading.Lock()
        self._serving: dict[int, _Lease] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, Fingerprint] = {}
        # Asked for by the policy at the last look, and not to be loaded.
        self._refused: list[int] = []
        self._unloaded = False

    @property
    def name(self) -> str:
        """Its name."""
        return self._config.name

    def configure(self, config: ModelConfig) -> None:
        """Follow another configuration from the next `refresh` on; labels count at once."""
        with self._lock:
            self._config = config

    def refresh(self) -> list[VersionStatus]:
        """Serve the versions that the policy names; return those that became available or failed.

        A version is loaded before another one is given up, and without a new one the old ones stay.
        """
        news = []
        self._refused = []
        policy = self._config.policy
        on_disk = versions(self._config.folder)
        self._forget(on_disk)
        wanted: list[int] = []
        for version in policy.candidates(on_disk):
            if policy.most is not None and len(wanted) >= policy.most:
                break
            if version in self._serving:
                wanted.append(version)
                continue
            fingerprint = _fingerprint(on_disk[version])
            if self._failed.get(version) == fingerprint:
                self._refused.append(version)
                continue
            before = self._statuses.get(version)
            status = self._load(version, on_disk[version])
            if status.error is None:
                news.append(status)
                wanted.append(version)
                continue
            self._failed[version] = fingerprint
            self._refused.append(version)
            if before is None or str(before.error) != str(status.error):
                news.append(status)
        if wanted:
            self._retire(set(self._serving) - set(wanted))
        return news

    def refused(self) -> list[VersionStatus]:
        """Return the versions that the policy asked for at the last `refresh` and that do not load."""
        with self._lock:
            return [self._statuses[version] for version in self._refused]

    def close(self) -> None:
        """Give up all versions, each when its last request is done."""
        self._retire(set(self._serving))

    def collected(self) -> bool:
        """Free versions whose last request is done; whether none is left."""
        with self._lock:
            unloaded, self._unloaded = self._unloaded, False
            left = any(one.state == "UNLOADING" for one in self._statuses.values())
        # A SavedModel has reference cycles: without a collection its weights stay after the last request.
        if unloaded:
            gc.collect()
        return not left and not self._serving

    @contextlib.contextmanager
    def lease(self, version: int | None, label: str | None) -> Iterator[Servable]:
        """Yield a version that is served, kept in memory until the context ends.

        Args:
          version: which one; the newest if None.
          label: the name of one.

        Raises:
          RequestError: NOT_FOUND if it is not served.
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
            raise not_found(f"version {version} of {self.name} is unknown")
        return found

    def _find(self, version: int | None, label: str | None) -> _Lease:
        if not self._serving:
            raise not_found(f"no version of {self.name} is served")
        labels = {STABLE: max(self._serving), **self._config.labels}
        if label is not None:
            if label not in labels:
                raise not_found(f"label must be one of {', '.join(sorted(labels))}, got {label!r}")
            version = labels[label]
        wanted = max(self._serving) if version is None else version
        if wanted not in self._serving:
            served = ", ".join(map(str, sorted(self._serving)))
            raise not_found(f"version of {self.name} must be {served}, got {wanted}")
        return self._serving[wanted]

    def _load(self, version: int, path: str) -> VersionStatus:
        with self._lock:
            self._note(version, "LOADING")
        try:
            servable = Servable(self.name, version, path)
        # TensorFlow raises almost any exception on a broken folder; the old version must keep serving.
        except Exception as error:
            message = f"version {version} of {self.name} does not load: {one_line(error)}"
            with self._lock:
                return self._note(version, "END", RequestError(grpc.StatusCode.INVALID_ARGUMENT, message))
        with self._lock:
            self._serving[version] = _Lease(servable)
            return self._note(version, "AVAILABLE")

    def _retire(self, old: Collection[int]) -> None:
        with self._lock:
            for version in old:
                lease = self._serving.pop(version)
                self._note(version, "UNLOADING")
                self._end_if_unused(lease)

    def _end_if_unused(self, lease: _Lease) -> None:
        version = lease.servable.version
        if self._serving.get(version) is not lease and not lease.requests:
            # It may have been loaded again meanwhile.
            if version not in self._serving:
                self._note(version, "END")
            self._unloaded = True

    def _note(self, version: int, state: State, error: RequestError | None = None) -> VersionStatus:
        self._statuses[version] = VersionStatus(self.name, version, state, error)
        return self._statuses[version]

    def _forget(self, on_disk: Collection[int]) -> None:
        with self._lock:
            for version, status in list(self._statuses.items()):
                if status.state == "END" and version not in on_disk:
                    del self._statuses[version]
                    self._failed.pop(version, None)
        self.collected()


class ModelRepository:
    """Every model below one folder, or of a configuration file, which may change."""

    def __init__(self, source: str):
        """Load the versions.

        Args:
          source: a folder, or a `--model_config_file`.

        Raises:
          ServingError: there is no model, or none that loads, or the file is wrong.
        """
        self._source = source
        self._is_file = os.path.isfile(source)
        self._read: tuple[int, int] | None = None
        # What a file or HandleReloadConfigRequest has named; a folder names its own.
        self._given: list[ModelConfig] = []
        # Where models may be, as whoever started the server has said: a client may not name others.
        self._folders = [] if self._is_file else [source]
        self._models: dict[str, Model] = {}
        # No longer named, and in memory until their last requests are done.
        self._closed: list[Model] = []
        # A look at the folder and a reload may come at the same time.
        self._refreshing = threading.Lock()
        news = self.refresh()
        if not self._models:
            raise ServingError(no_model(source))
        if not any(status.state == "AVAILABLE" for status in news):
            reason = news[0].error if news else "there is no version"
            raise ServingError(f"no model in {source} loads: {reason}")
        self.first_news = news

    def refresh(self) -> list[VersionStatus]:
        """Look at the folder or the file again; return the versions that became available or failed.

        Raises:
          ServingError: the file is wrong; what is served stays.
        """
        with self._refreshing:
            return self._follow(self._named())

    def reload(self, configs: list[ModelConfig]) -> list[VersionStatus]:
        """Serve these models and no others, as HandleReloadConfigRequest asks, until the file changes.

        Returns:
          The versions asked for that do not load, also those that an earlier look has found: which of the
          two comes first must not decide what the caller reads.

        Raises:
          RequestError: PERMISSION_DENIED if a folder is none of the file's, and in none of these or of the
            served folder: a client may choose among models, and not read what else is on this machine.
        """
        with self._refreshing:
            for config in configs:
                if not any(_is_in(config.folder, folder) for folder in self._folders):
                    raise RequestError(
                        grpc.StatusCode.PERMISSION_DENIED,
                        f"base_path of {config.name} must be in a folder that is served, got {config.folder}",
                    )
            self._given = configs
            self._follow(configs)
            return [status for config in configs for status in self._models[config.name].refused()]

    def _named(self) -> list[ModelConfig]:
        if not self._is_file:
            return self._given or model_config.below(self._source)
        state = os.stat(self._source)
        stamp = state.st_mtime_ns, state.st_ino
        if stamp != self._read:
            # Before it is read: a wrong file is reported once.
            self._read = stamp
            self._given = model_config.read(self._source)
            self._folders = [one.folder for one in self._given]
        return self._given

    def _follow(self, configs: list[ModelConfig]) -> list[VersionStatus]:
        for config in configs:
            if config.name in self._models:
                self._models[config.name].configure(config)
            else:
                self._models[config.name] = Model(config)
        # A folder that is gone may come back; what a file no longer names does not.
        if self._given:
            for name in set(self._models) - {config.name for config in configs}:
                self._closed.append(self._models.pop(name))
                self._closed[-1].close()
        self._closed = [model for model in self._closed if not model.collected()]
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


def _is_in(folder: str, root: str) -> bool:
    if "://" in folder or "://" in root:
        return ".." not in folder.split("/") and f"{folder}/".startswith(f"{root.rstrip('/')}/")
    return f"{os.path.realpath(folder)}{os.sep}".startswith(f"{os.path.realpath(root)}{os.sep}")


def _fingerprint(path: str) -> Fingerprint:
    files = []
    for folder, _, names in tf.io.gfile.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            stat = tf.io.gfile.stat(file)
            files.append((file, stat.length, stat.mtime_nsec))
    return tuple(sorted(files))
