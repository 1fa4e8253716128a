"""A model's description of itself, readable without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

# Every image is RGB.
CHANNELS = 3
WHITE = "#ffffff"


@dataclass(frozen=True)
class Metadata:
    """The JSON constant behind the signature `metadata`.

    Attributes:
      kind: "tokenizer", "generator" or "classifier".
      preset: the configuration that it was trained with.
      image_size: S, pixels a side.
      tokens: N, tokens an image; 0 for a classifier.
      codebook_size: K; tokens are in [0, K).
      class_names: the name of each class id; empty for a model without classes.
      versions: of the libraries that trained it.
      ground: the colour behind transparent pixels of its images, "#rrggbb".
    """

    kind: str
    preset: str
    image_size: int
    tokens: int
    codebook_size: int
    class_names: tuple[str, ...]
    versions: Mapping[str, str]
    ground: str = WHITE

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Parse what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "class_names": tuple(fields["class_names"])})

    def to_json(self) -> str:
        """One line of JSON, identical for identical metadata."""
        return json.dumps(asdict(self), sort_keys=True)
