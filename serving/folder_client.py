"""The client without a server: it loads the SavedModels of a run's folder itself."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from serving.client import Client
from serving.errors import ClientError, RequestError, first_line
from serving.models import model_names, versions
from serving.servable import Servable


class FolderClient(Client):
    """Answers from the newest version of every model below `base`."""

    def __init__(self, base: str):
        self._base = base
        self._names = model_names(base)
        self._loaded: dict[str, Servable] = {}
        if not self._names:
            raise ClientError(f"no model in {base}, expected <model>/<integer version>/saved_model.pb")

    def predict(self, model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `Client.predict`."""
        try:
            return self._servable(model).predict(signature, inputs)
        except RequestError as error:
            raise ClientError(error.message) from error

    def _servable(self, model: str) -> Servable:
        if model not in self._names:
            raise ClientError(f"model {model!r} is not in {self._base}, allowed are {', '.join(self._names)}")
        if model not in self._loaded:
            directory = os.path.join(self._base, model)
            newest = versions(directory)[0]
            try:
                self._loaded[model] = Servable(model, newest, os.path.join(directory, str(newest)))
            # A broken folder makes TensorFlow raise almost anything.
            except Exception as error:
                raise ClientError(
                    f"version {newest} of {model} in {self._base} does not load: {first_line(error)}"
                ) from error
        return self._loaded[model]
