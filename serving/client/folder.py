"""The client without a server: it loads the SavedModels of a run's folder."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import grpc

from serving.client.client import Array, Client
from serving.export.metadata import Metadata
from serving.export.versions import model_names, no_model, versions
from serving.wire.errors import ClientError, RefusedError, RequestError, one_line

if TYPE_CHECKING:  # it imports TensorFlow, which `metadata` does without
    from serving.server.servable import Servable


class FolderClient(Client):
    """Queries the newest version that loads of every model below `base`.

    Args:
      base: the folder of the models.
      say: takes a line for each version that does not load.
    """

    def __init__(self, base: str, say: Callable[[str], None] = logging.getLogger(__name__).warning):
        self._base = base
        self._say = say
        self._names = model_names(base)
        self._loaded: dict[str, Servable] = {}
        # Threads may ask at the same time, and a model takes memory once.
        self._loading = threading.Lock()
        if not self._names:
            raise ClientError(no_model(base))

    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`."""
        try:
            return self._servable(model).predict(signature, inputs)
        except RequestError as error:
            kind = RefusedError if error.code is grpc.StatusCode.INVALID_ARGUMENT else ClientError
            raise kind(error.message) from error

    def metadata(self, model: str) -> Metadata:
        """As `Client.metadata`; from the file beside the newest version, if that has one."""
        self._check(model)
        newest = Metadata.read(next(iter(versions(os.path.join(self._base, model)).values())))
        return newest if newest and model not in self._loaded else super().metadata(model)

    def _servable(self, model: str) -> Servable:
        self._check(model)
        with self._loading:
            if model not in self._loaded:
                self._loaded[model] = self._load(model)
            return self._loaded[model]

    def _check(self, model: str) -> None:
        if model not in self._names:
            raise ClientError(f"model must be one of {', '.join(self._names)} in {self._base}, got {model!r}")

    def _load(self, model: str) -> Servable:
        """The newest version that loads, as a server would serve it."""
        from serving.server.servable import Servable

        known = versions(os.path.join(self._base, model))
        failures: list[str] = []
        for version, path in known.items():
            try:
                # Warming up takes longer than a command's few queries.
                found = Servable(model, version, path, warm_up=False)
            # TensorFlow raises almost any exception on a damaged folder.
            except Exception as error:
                reason = one_line(error)
                failures.append(f"version {version} of {model} in {self._base} does not load: {reason}")
                continue
            self._check_alike(next(iter(known.values())), path, version, failures)
            for failure in failures:
                self._say(f"{failure}; version {version} is used")
            return found
        raise ClientError(failures[0])

    def _check_alike(self, newest: str, used: str, version: int, failures: list[str]) -> None:
        """Check that classes and sizes are those of the newest version, by which a request was made."""
        promised, given = (Metadata.read(path) for path in (newest, used))
        if promised and given and promised.interface != given.interface:
            raise ClientError(f"{failures[0]}; version {version} has other classes or sizes")
