"""What a model says of itself, for the server's side and for clients that have no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Metadata:
    """What a model says of itself: the JSON constant behind the signature `metadata`."""

    kind: str  # "tokenizer", "generator" or "classifier"
    preset: str
    image_size: int
    tokens: int
    codebook_size: int
    class_names: tuple[str, ...]
    versions: Mapping[str, str]

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """The metadata that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "class_names": tuple(fields["class_names"])})

    def to_json(self) -> str:
        """One line of JSON, the same for the same metadata."""
        return json.dumps(asdict(self), sort_keys=True)
