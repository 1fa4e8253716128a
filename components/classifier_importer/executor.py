"""ClassifierImporter's executor: loads a network of keras.applications and exports it."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.classifier_importer import network
from components.classifier_importer.names import NetworkFiles
from components.dataset import Dataset
from serving.export.atomic import atomic_folder
from serving.export.classifier import export_classifier
from serving.export.metadata import Metadata, library_versions
from serving.export.signatures import exportable


class Executor(base_executor.BaseExecutor):
    """Executor of ClassifierImporter."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Export the network as the output `model`, for the classes of `examples` or, without, its own.

        Raises:
          ClassifierError: weights or classes are not there or another network's, or do not have the data's
            classes.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        files = NetworkFiles(*(exec_properties[key] for key in NetworkFiles._fields))
        dataset = Dataset.read(artifact_utils.get_single_uri(input_dict["examples"]))
        recognizer = network.of_classes(network.load(files), dataset.class_names)
        metadata = Metadata(
            kind="classifier",
            preset=exec_properties["preset"],
            image_size=exec_properties["image_size"],
            tokens=0,
            codebook_size=0,
            class_names=recognizer.class_names,
            versions=library_versions(),
            ground=exec_properties["ground"],
            max_image_pixels=exec_properties["max_image_pixels"],
            architecture=f"{files.network} of keras.applications",
            resize=recognizer.resize,
        )
        uri = artifact_utils.get_single_uri(output_dict["model"])
        with atomic_folder(uri):
            export_classifier(
                path_utils.serving_model_dir(uri),
                exportable(recognizer.model),
                metadata,
                classify=recognizer.classify,
            )
