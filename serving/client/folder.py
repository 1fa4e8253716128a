"""The client without a server: it loads the SavedModels of a run's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping

from serving.client.client import Array, Client
from serving.server.models import model_names, versions
from serving.server.servable import Servable
from serving.wire.errors import ClientError, RequestError, one_line


class FolderClient(Client):
    """Queries the newest version of every model below `base`."""

    def __init__(self, base: str):
        self._base = base
        self._names = model_names(base)
        self._loaded: dict[str, Servable] = {}
        if not self._names:
            raise ClientError(f"{base} must hold <model>/<integer version>/saved_model.pb, got no model")

    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`."""
        try:
            return self._servable(model).predict(signature, inputs)
        except RequestError as error:
            raise ClientError(error.message) from error

    def _servable(self, model: str) -> Servable:
        if model not in self._names:
            raise ClientError(f"model must be one of {', '.join(self._names)} in {self._base}, got {model!r}")
        if model not in self._loaded:
            directory = os.path.join(self._base, model)
            newest = versions(directory)[0]
            try:
                self._loaded[model] = Servable(model, newest, os.path.join(directory, str(newest)))
            # TensorFlow raises almost any exception on a damaged folder.
            except Exception as error:
                raise ClientError(
                    f"version {newest} of {model} in {self._base} does not load: {one_line(error)}"
                ) from error
        return self._loaded[model]
