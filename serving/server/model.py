"""Versions of one model: discovery, loading and replacement under load.

`<base>/<model>/<integer version>/saved_model.pb`, TF Serving's layout and policy: the newest version
serves, unless a configuration names others. A new version is loaded beside the old one, which answers until
its last request is done; a version that does not load is reported and skipped.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

import grpc
import tensorflow as tf

from serving.export.versions import MAX_VERSION, versions
from serving.server.loading import in_background
from serving.server.model_config import ModelConfig
from serving.server.servable import Servable
from serving.wire.errors import RequestError, invalid, not_found, one_line

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


@dataclass(frozen=True)
class Retries:
    """How often a version that does not load is loaded again, whose files stay as they are.

    Attributes:
      most: how many times.
      seconds: between two of them.
    """

    most: int = 5
    seconds: float = 60.0


@dataclass(frozen=True)
class _Failure:
    """A version that did not load: of which files, how many times, and when last."""

    fingerprint: Fingerprint
    times: int
    at: float = field(default_factory=lambda: time.monotonic())  # not bound when it is read: tests set it

    def may_pass(self, fingerprint: Fingerprint, retries: Retries) -> bool:
        """Whether to load it again: its files have changed, or a store may have failed for a while."""
        if fingerprint != self.fingerprint:
            return True
        return self.times <= retries.most and time.monotonic() - self.at >= retries.seconds


class Model:
    """One model's folder. Thread-safe, except that only one thread may call `refresh`."""

    def __init__(self, config: ModelConfig, retries: Retries):
        self._config = config
        self._lock = threading.Lock()
        self._serving: dict[int, _Lease] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._retries = retries
        self._failed: dict[int, _Failure] = {}
        # What the policy asked for at the last look, and is not served.
        self._refused: list[RequestError] = []
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
            failure = self._failed.get(version)
            if failure and not failure.may_pass(fingerprint, self._retries):
                self._refused += filter(None, [self._statuses[version].error])
                continue
            before = self._statuses.get(version)
            status = self._load(version, on_disk[version])
            if status.error is None:
                news.append(status)
                wanted.append(version)
                continue
            same = failure is not None and failure.fingerprint == fingerprint
            self._failed[version] = _Failure(fingerprint, failure.times + 1 if failure and same else 1)
            self._refused.append(status.error)
            if before is None or str(before.error) != str(status.error):
                news.append(status)
        for version in sorted(set(policy.specific) - set(on_disk) - set(self._serving)):
            self._refused.append(
                not_found(f"version {version} of {self.name} must be in {self._config.folder}")
            )
        if wanted:
            self._retire(set(self._serving) - set(wanted))
        elif not self._refused:
            self._refused.append(not_found(f"{self._config.folder} must hold a version of {self.name}"))
        return news

    def refused(self) -> list[RequestError]:
        """Why versions that the policy asked for at the last `refresh` are not served."""
        return list(self._refused)

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
            servable = in_background(lambda: Servable(self.name, version, path))
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
            # It may have been loaded again meanwhile, or have failed to.
            if version not in self._serving and self._statuses[version].state == "UNLOADING":
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


def version_of(text: str | None) -> int | None:
    """The version that a path names; None for none.

    Raises:
      RequestError: INVALID_ARGUMENT if it is no version.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= MAX_VERSION):
        raise invalid(f"version must be an integer from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def _fingerprint(path: str) -> Fingerprint:
    files = []
    for folder, _, names in tf.io.gfile.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            stat = tf.io.gfile.stat(file)
            files.append((file, stat.length, stat.mtime_nsec))
    return tuple(sorted(files))
