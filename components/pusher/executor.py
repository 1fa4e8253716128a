"""Pusher's executor: TFX's own, but for how a version is numbered and written."""

from __future__ import annotations

from typing import Any

from tfx import v1 as tfx
from tfx.components.pusher import executor
from tfx.types import Artifact, artifact_utils, standard_component_specs
from tfx.utils import io_utils, proto_utils

from serving.export.versions import content_digest, push

# The property of the pushed model by which damage is seen later.
CONTENT = "content"


class Executor(executor.Executor):
    """Executor of Pusher."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Push the model if it is blessed.

        Args:
          input_dict: `model`, `model_blessing`, `infra_blessing`.
          output_dict: `pushed_model`, a copy of what was pushed; its property `pushed` is 1 or 0, and with 1
            `pushed_destination`, `pushed_version` and `content`, a digest, tell what a server has.
          exec_properties: `push_destination`, JSON of a `PushDestination` in a file system.
        """
        artifact = artifact_utils.get_single_instance(output_dict[standard_component_specs.PUSHED_MODEL_KEY])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(artifact)
            return
        destination = tfx.proto.PushDestination()
        proto_utils.json_to_proto(exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination)
        model = self.GetModelPath(input_dict)
        io_utils.copy_dir(model, artifact.uri)
        pushed = push(model, destination.filesystem.base_directory)
        self._MarkPushed(artifact, pushed_destination=pushed, pushed_version=pushed.rpartition("/")[2])
        artifact.set_string_custom_property(CONTENT, content_digest(artifact.uri))
