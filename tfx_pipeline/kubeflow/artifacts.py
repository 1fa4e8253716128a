"""Artifacts: as Kubeflow's launcher sends them, and as TFX's executors take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfx.types import artifact, standard_artifacts
from tfx.utils import import_utils

from tfx_pipeline.kubeflow.addresses import local_path

# What ML Metadata adds to an artifact's own metadata, and the keys that it puts around lists and dicts.
_ADDED = ("display_name", "store_session_info")
_AROUND = ({"list"}, {"struct"})


def from_kubeflow(sent: Mapping[str, Any], type_name: str) -> artifact.Artifact:
    """The TFX artifact of what the launcher sent, on the pod's disk.

    Args:
      sent: a `RuntimeArtifact` as JSON, with `uri` and `metadata`. To release 2.18 the metadata has been
        through ML Metadata, which turns booleans into numbers too.
      type_name: `tfx.Model` and its like, or the dotted path of a class.
    """
    made = _class_of(type_name)()
    made.uri = local_path(sent["uri"])
    for key, value in sent.get("metadata", {}).items():
        if key in _ADDED:
            continue
        if isinstance(value, dict) and set(value) in _AROUND:
            (value,) = value.values()
        _set(made, key, value)
    return made


def metadata(made: artifact.Artifact) -> dict[str, Any]:
    """The properties of an artifact, those of its type and others, as JSON; empty ones are left out."""
    stored = made.mlmd_artifact
    found = {key: getattr(made, key) for key in stored.properties}
    for key in stored.custom_properties:
        found[key] = made.get_custom_property(key)
    return {key: value for key, value in found.items() if value is not None}


def _class_of(type_name: str) -> type[artifact.Artifact]:
    package, _, name = type_name.rpartition(".")
    if package == "tfx":
        found: type[artifact.Artifact] = getattr(standard_artifacts, name)
        return found
    return import_utils.import_class_by_path(type_name)


def _set(made: artifact.Artifact, key: str, value: Any) -> None:
    """Set a property; JSON has no integers, so a number without a fraction becomes one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if key in made.artifact_type.properties:
        setattr(made, key, value)
    elif isinstance(value, str):
        made.set_string_custom_property(key, value)
    elif isinstance(value, int):
        made.set_int_custom_property(key, value)
    elif isinstance(value, float):
        made.set_float_custom_property(key, value)
    else:
        made.set_json_value_custom_property(key, value)
