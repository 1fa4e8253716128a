"""A model's description of itself, readable without TensorFlow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata as distributions

# Every image is RGB.
CHANNELS = 3
WHITE = "#ffffff"
# Of an image, anywhere: a few kilobytes can decode to gigabytes.
MAX_PIXELS = 2**26
# The output of signatures that take images: why a row failed; empty where it did not.
ERROR = "error"
# Beside a SavedModel, where TF Serving takes no notice of it.
FILE = os.path.join("assets.extra", "tfx_vim.json")


@dataclass(frozen=True)
class Metadata:
    """The JSON constant behind the signature `metadata`, and the file `FILE` beside the model.

    Attributes:
      kind: "tokenizer", "generator" or "classifier".
      preset: the configuration that it was trained with.
      image_size: S, pixels a side.
      tokens: N, tokens an image; 0 for a classifier.
      codebook_size: K; tokens are in [0, K).
      class_names: the name of each class id; empty for a model without classes.
      versions: of the libraries that trained it.
      ground: the colour behind transparent pixels of its images, "#rrggbb".
      max_image_pixels: an image with more is refused.
      architecture: of a network that was not trained by a run, and whose it is; "" for one that was.
      resize: how images come to the network's input, beyond `image_size`.
    """

    kind: str
    preset: str
    image_size: int
    tokens: int
    codebook_size: int
    class_names: tuple[str, ...]
    versions: Mapping[str, str]
    ground: str = WHITE
    max_image_pixels: int = MAX_PIXELS
    architecture: str = ""
    resize: str = "none"

    @property
    def interface(self) -> tuple[object, ...]:
        """What requests and answers depend on."""
        sizes = self.image_size, self.tokens, self.codebook_size, self.max_image_pixels
        return self.kind, sizes, self.class_names, self.ground

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Parse what `to_json` wrote, here or in a later release, whose further keys are ignored."""
        written = json.loads(text)
        known = {field.name: written[field.name] for field in fields(cls) if field.name in written}
        return cls(**{**known, "class_names": tuple(known["class_names"])})

    @classmethod
    def read(cls, model_dir: str) -> Metadata | None:
        """Read the file beside a SavedModel of this machine; None if there is none, or a damaged one."""
        try:
            with open(os.path.join(model_dir, FILE), encoding="utf-8") as file:
                return cls.from_json(file.read())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def to_json(self) -> str:
        """One line of JSON, identical for identical metadata."""
        return json.dumps(asdict(self), sort_keys=True)


def library_versions() -> dict[str, str]:
    """The releases of what makes a model."""
    return {name: distributions.version(name) for name in ("tfx-vim", "tensorflow", "keras")}
