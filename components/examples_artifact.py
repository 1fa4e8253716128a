"""What TFX's components read of an Examples artifact beside its files."""

from __future__ import annotations

from collections.abc import Sequence

from tfx import types
from tfx.types import artifact_utils

# `tfx.components.example_gen.utils` has it, and imports all of TFX's components.
PAYLOAD_FORMAT = "payload_format"


def describe_artifact(examples: types.Artifact, splits: Sequence[str]) -> None:
    """Set the properties of an Examples artifact (splits, payload format) that TFX's components read."""
    examples.split_names = artifact_utils.encode_split_names(list(splits))
    examples.set_string_custom_property(PAYLOAD_FORMAT, "FORMAT_TF_EXAMPLE")
    # No `file_format`: TFX supports only "tfrecords_gzip", which is also its default, and detects compression
    # by the suffix `.gz`. These files are not compressed.
