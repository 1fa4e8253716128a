"""SavedModels on Beam workers: a worker gets the path, and each process loads the model once."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from apache_beam.utils import shared
from tfx.types import Artifact, artifact_utils
from tfx.utils import path_utils

from serving.export.metadata import Metadata
from serving.export.signatures import read_metadata, read_signature_defs


class SavedModel:
    """A model by its path, light enough to be sent to a worker."""

    def __init__(self, path: str):
        self.path = path
        self._shared = shared.Shared()

    @classmethod
    def of(cls, model: list[Artifact]) -> SavedModel:
        """The model of an artifact."""
        return cls(path_utils.serving_model_path(artifact_utils.get_single_uri(model)))

    def load(self) -> Any:
        """The loaded model, one object a process."""
        return self._shared.acquire(functools.partial(tf.saved_model.load, self.path))

    def metadata(self) -> Metadata:
        """The model's metadata."""
        return read_metadata(self.load())


def signature_outputs(path: str) -> dict[str, set[str]]:
    """The outputs of a model's signatures by name, without loading it."""
    return {name: set(signature.outputs) for name, signature in read_signature_defs(path).items()}


def release() -> None:
    """Free the model of a pipeline that ran in this process.

    `Shared` keeps its last object until it gets another one: the memory would stay in use during all later
    components.
    """
    shared.Shared().acquire(set)
