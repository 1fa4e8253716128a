"""Pusher's executor: what TFX's does, with versions that are unique and rise.

Without TFX's own, which imports all of its components: twice as much processor time as a push takes.
"""

from __future__ import annotations

from typing import Any

from absl import logging
from tfx.dsl.components.base import base_executor
from tfx.proto import pusher_pb2
from tfx.types import Artifact, artifact_utils
from tfx.utils import io_utils, path_utils, proto_utils

from serving.export.versions import content_digest, push

# Of both blessings: 1 if the model may be pushed.
BLESSED = "blessed"
# Of the pushed model, as TFX has them.
PUSHED, DESTINATION, VERSION = "pushed", "pushed_destination", "pushed_version"
# The property of the pushed model by which damage is seen later.
CONTENT = "content"


class Executor(base_executor.BaseExecutor):
    """Executor of Pusher."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Push the model if it is blessed.

        Args:
          input_dict: `model`, and `model_blessing`, `infra_blessing` or both.
          output_dict: `pushed_model`, a copy of what was pushed; its property `pushed` is 1 or 0, and with 1
            `pushed_destination`, `pushed_version` and `content`, a digest, tell what a server has.
          exec_properties: `push_destination`, JSON of a `PushDestination` in a file system.
        """
        artifact = artifact_utils.get_single_instance(output_dict["pushed_model"])
        for key in ("model_blessing", "infra_blessing"):
            for blessing in input_dict.get(key, []):
                if blessing.get_int_custom_property(BLESSED) != 1:
                    logging.info("not pushed: %s is no blessing", blessing.uri)
                    artifact.set_int_custom_property(PUSHED, 0)
                    return
        destination = pusher_pb2.PushDestination()  # type: ignore[attr-defined]
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        io_utils.copy_dir(model, artifact.uri)
        pushed = push(model, destination.filesystem.base_directory)
        artifact.set_int_custom_property(PUSHED, 1)
        artifact.set_string_custom_property(DESTINATION, pushed)
        artifact.set_string_custom_property(VERSION, pushed.rpartition("/")[2])
        artifact.set_string_custom_property(CONTENT, content_digest(artifact.uri))
