"""TokenizerImporter's executor: checks a SavedModel and copies it."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.tokenizer_importer import saved_tokenizer
from serving.export.atomic import atomic_folder


class Executor(base_executor.BaseExecutor):
    """Executor of TokenizerImporter."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Copy the tokenizer at `savedmodel` into the output `model`.

        Raises:
          TokenizerError: it cannot be the tokenizer of images of `image_size` pixels a side.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        path = exec_properties["savedmodel"]
        saved_tokenizer.read(path, image_size=exec_properties["image_size"])
        uri = artifact_utils.get_single_uri(output_dict["model"])
        with atomic_folder(uri):
            io_utils.copy_dir(path, path_utils.serving_model_dir(uri))
