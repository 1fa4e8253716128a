"""ExampleValidator's executor: TFX's own, and an error if it found anomalies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.components.example_validator import executor
from tfx.types import artifact_utils
from tfx.types.standard_component_specs import ANOMALIES_KEY

# Text need not be known from training: keys differ, and a schema inferred from a small split lists them all;
# classes are checked by ImageExampleGen.
_UNEXPECTED_TEXT = anomalies_pb2.AnomalyInfo.ENUM_TYPE_UNEXPECTED_STRING_VALUES


class AnomalyError(ValueError):
    """The Examples have anomalies; the message is one line for the user."""


class Executor(executor.Executor):
    """Executor of ExampleValidator."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> Any:
        """Write the output `anomalies`.

        Raises:
          AnomalyError: there is one.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        (artifact,) = output_dict[ANOMALIES_KEY]
        found = list(_found(artifact))
        if found:
            raise AnomalyError(f"{'; '.join(found)}; data.allow=[anomalies] lets it pass")
        return result


def _found(artifact: types.Artifact) -> Iterator[str]:
    for split in artifact_utils.decode_split_names(artifact.split_names):
        folder = artifact_utils.get_split_uri([artifact], split)
        with tf.io.gfile.GFile(os.path.join(folder, executor.DEFAULT_FILE_NAME), "rb") as file:
            anomalies = anomalies_pb2.Anomalies.FromString(file.read())
        if anomalies.HasField("dataset_anomaly_info"):
            yield f"split {split}: {anomalies.dataset_anomaly_info.description}"
        for feature, info in sorted(anomalies.anomaly_info.items()):
            for reason in info.reason:
                if reason.type != _UNEXPECTED_TEXT:
                    yield f"split {split}, {feature}: {reason.description or reason.short_description}"
