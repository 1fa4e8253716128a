"""Requests of the page, checked before anything is paid for."""

from __future__ import annotations

import base64
from typing import Annotated

import pydantic
from pydantic import Field

from serving.export.sampling_params import SamplingParams

# Pictures a request.
MOST = 64
# Tokens of a picture, and sequences of them in one request: the neighbours of a token.
_TOKENS, _SEQUENCES = 2**16, 16

Id = Annotated[int, Field(ge=0, lt=2**31)]


class _Request(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class Draw(_Request):
    """Pictures of these classes, in this order; a model without classes ignores which."""

    class_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST)]
    sampling: SamplingParams = SamplingParams()


class _WithImage(_Request):
    image: Annotated[str, Field(min_length=1)]

    @pydantic.field_validator("image")
    @classmethod
    def _is_base64(cls, image: str) -> str:
        base64.b64decode(image, validate=True)
        return image

    @property
    def content(self) -> bytes:
        """The image file."""
        return base64.b64decode(self.image)


class Complete(_WithImage):
    """Completions of an image of which the first rows of tokens are kept."""

    class_id: Id = 0
    count: Annotated[int, Field(ge=1, le=MOST)]
    kept_rows: Id
    sampling: SamplingParams = SamplingParams()


class Reconstruct(_WithImage):
    """What the tokens of an image keep of it."""

    tokenizer: str


class Decode(_Request):
    """Pictures of tokens."""

    tokenizer: str
    tokens: Annotated[
        list[Annotated[list[Id], Field(max_length=_TOKENS)]], Field(min_length=1, max_length=_SEQUENCES)
    ]

    @pydantic.field_validator("tokens")
    @classmethod
    def _are_rows(cls, tokens: list[list[int]]) -> list[list[int]]:
        if len({len(row) for row in tokens}) > 1:
            raise ValueError("sequences must have the same length")
        return tokens


class Neighbors(_Request):
    """The codes nearest to one."""

    tokenizer: str
    token: Id
