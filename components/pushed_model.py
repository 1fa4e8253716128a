"""The last pushed model, which a new one is compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from components.saved_model import signature_outputs
from serving.export.metadata import FILE, Metadata
from serving.export.versions import SAVED_MODEL, versions
from serving.wire.errors import one_line


class PushedModel(NamedTuple):
    """A version in the folder that a server watches.

    Attributes:
      path: of its SavedModel; "" if none was pushed yet.
      problem: why it cannot be compared with the new model; "" if it can.
    """

    path: str = ""
    problem: str = ""

    @property
    def version(self) -> str:
        """The name of its folder; "" if none was pushed yet."""
        return os.path.basename(self.path)


def find(folder: str, new: Metadata, wanted: Mapping[str, Sequence[str]]) -> PushedModel:
    """Find the newest whole version in a folder.

    Args:
      folder: of the model's versions; "" finds none.
      new: the metadata of the model to compare with: images must have the same size, and classes be the same.
      wanted: outputs of the signatures that the comparison asks.
    """
    places = versions(folder).values() if folder else []
    path = next((place for place in places if tf.io.gfile.exists(os.path.join(place, SAVED_MODEL))), "")
    if not path:
        return PushedModel()
    try:
        outputs = signature_outputs(path)
        with tf.io.gfile.GFile(os.path.join(path, FILE)) as file:
            old = Metadata.from_json(file.read())
    except (tf.errors.OpError, DecodeError, ValueError, KeyError, TypeError) as error:
        return PushedModel(path, f"which cannot be read: {one_line(error)}")
    for name, needed in wanted.items():
        if missing := sorted(set(needed) - outputs.get(name, set())):
            return PushedModel(path, f"which has no {name}.{missing[0]}")
    if old.image_size != new.image_size:
        return PushedModel(path, f"whose images have {old.image_size} pixels a side, not {new.image_size}")
    if old.kind == "generator" and old.class_names != new.class_names:
        return PushedModel(path, "whose classes are others")
    return PushedModel(path)
