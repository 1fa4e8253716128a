"""Queries of the models: generate, complete, encode, decode, reconstruct, classify.

Images are uint8 [N, S, S, 3] here and PNG bytes on the wire. Requests are sent in batches, so the number of
rows is not limited, and the answer does not depend on the batch size. `generate` asks at once for what the
query `generation` describes, and so on; `serving.client.query.stream` and `serving.client.aio` take a query.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from serving.client.client import Array, Client
from serving.client.query import Query, run
from serving.export.metadata import Metadata
from serving.export.sampling_params import SamplingParams
from serving.export.standard_image import UnreadableImage, standardize
from serving.wire.errors import ClientError, did_you_mean

TOKENIZER = "vit_vqgan"
GENERATOR = "vim"
CLASSIFIER = "classifier"
BATCH_SIZE = 64
# More rows at once are not faster (docs/performance.md), and each answer takes longer.
SAMPLES_PER_REQUEST = 16
ALL = "all"
# An index has a form of its own: a bare number may be the name of another class.
INDEX = "id:"

# More class names than this make an error message unreadable.
_NAMES_SHOWN = 20


def class_ids(metadata: Metadata, names: Sequence[str]) -> list[int]:
    """The ids of classes given as names, as indices (`id:3`), or `all`.

    Raises:
      ValueError: an unknown class; one line with the known ones.
    """
    known = metadata.class_names
    _check_has_classes(known, names)
    ids: list[int] = []
    for name in names:
        if name == ALL and ALL not in known:
            ids.extend(range(len(known)))
        else:
            ids.append(_class_id(known, name, f"{_listed(known)}, {ALL}"))
    return ids


def one_class(metadata: Metadata, names: Sequence[str]) -> int:
    """The id of one class given as a name or an index (`id:3`); 0 for a model without classes.

    Raises:
      ValueError: no class or several, or an unknown one; one line with the known ones.
    """
    known = metadata.class_names
    _check_has_classes(known, names)
    if not known:
        return 0
    if len(names) != 1:
        given = ", ".join(map(repr, names)) or "none"
        raise ValueError(f"class must be exactly one of {_listed(known)}, got {given}")
    return _class_id(known, names[0], _listed(known))


def kept_rows(metadata: Metadata, share: float) -> int:
    """The number of token rows nearest to a share of the grid; halves are rounded up.

    Args:
      metadata: its `tokens` form a square grid.
      share: in [0, 1].

    Raises:
      ValueError: the share is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share of rows to keep must be in [0, 1], got {share:g}")
    return math.floor(share * math.isqrt(metadata.tokens) + 0.5)


def generation(
    class_ids: Sequence[int],
    params: SamplingParams = SamplingParams(),
    *,
    batch_size: int = SAMPLES_PER_REQUEST,
) -> Query[tuple[Array, Array]]:
    """Sampling one image a row.

    Args:
      class_ids: a class for every row; a model without classes ignores them.
      params: how to sample; row i has the seed `params.seed` + i, so that it can be sampled again alone.
      batch_size: rows a request.

    Returns:
      The query of (images uint8 [N, S, S, 3], tokens int32 [N, T]).
    """
    return _sampling(params.signature, _inputs(params, class_ids), batch_size)


def completion(
    image_bytes: Sequence[bytes],
    class_ids: Sequence[int],
    kept_rows: int,
    params: SamplingParams = SamplingParams(),
    *,
    batch_size: int = SAMPLES_PER_REQUEST,
) -> Query[tuple[Array, Array]]:
    """Keeping the first rows of each image's token grid and sampling the rest.

    Args:
      image_bytes: an image file of any size for every row, in a format of `standard_image.FORMATS`.
      class_ids: a class for every row, as for `generation`.
      kept_rows: rows of tokens to keep, 0 to the side of the grid.
      params: as for `generation`; the guidance schedule must be constant.
      batch_size: rows a request.

    Returns:
      The query of (images uint8 [N, S, S, 3], tokens int32 [N, T]).

    Raises:
      ValueError: numbers of classes and images differ, an image cannot be read, or the schedule is not
        constant.
    """
    if len(class_ids) != len(image_bytes):
        raise ValueError(f"class_ids must have one id an image, got {len(class_ids)} for {len(image_bytes)}")
    if params.guidance_schedule != "constant":
        raise ValueError(f"guidance_schedule must be constant for completion, got {params.guidance_schedule}")
    inputs = {
        "image_bytes": _sendable(image_bytes),
        "kept_rows": np.full(len(image_bytes), kept_rows, np.int32),
        **_inputs(params, class_ids),
    }
    return _sampling("complete", inputs, batch_size)


def encoding(
    image_bytes: Sequence[bytes], *, model: str = TOKENIZER, batch_size: int = BATCH_SIZE
) -> Query[Array]:
    """Image files of any size (formats of `standard_image.FORMATS`) to tokens int32 [N, T], raster order.

    Raises:
      ValueError: one of them cannot be read.
    """
    inputs = {"image_bytes": _sendable(image_bytes)}
    return Query(model, "encode", inputs, ("tokens",), lambda answer: answer["tokens"], batch_size)


def decoding(tokens: Array, *, model: str = TOKENIZER, batch_size: int = BATCH_SIZE) -> Query[Array]:
    """Tokens int32 [N, T] to images uint8 [N, S, S, 3]."""
    inputs = {"tokens": np.asarray(tokens, np.int32)}
    return Query(model, "decode", inputs, ("image_bytes",), _pixels, batch_size)


def reconstruction(
    image_bytes: Sequence[bytes], *, model: str = TOKENIZER, batch_size: int = BATCH_SIZE
) -> Query[Array]:
    """Image files of any size to their reconstructions, uint8 [N, S, S, 3].

    Raises:
      ValueError: one of them cannot be read.
    """
    inputs = {"image_bytes": _sendable(image_bytes)}
    return Query(model, "reconstruct", inputs, ("image_bytes",), _pixels, batch_size)


def classification(image_bytes: Sequence[bytes], *, batch_size: int = BATCH_SIZE) -> Query[Array]:
    """Image files of any size to the probabilities of the classifier's classes, float32 [N, C].

    Raises:
      ValueError: one of them cannot be read.
    """
    inputs = {"image_bytes": _sendable(image_bytes)}
    outputs = ("probabilities",)
    return Query(CLASSIFIER, "classify", inputs, outputs, lambda answer: answer["probabilities"], batch_size)


def generate(
    client: Client,
    class_ids: Sequence[int],
    params: SamplingParams = SamplingParams(),
    *,
    batch_size: int = SAMPLES_PER_REQUEST,
) -> tuple[Array, Array]:
    """Answer `generation`; raises ClientError if the model has no signature for the guidance schedule."""
    return run(client, generation(class_ids, params, batch_size=batch_size))


def complete(
    client: Client,
    image_bytes: Sequence[bytes],
    class_ids: Sequence[int],
    kept_rows: int,
    params: SamplingParams = SamplingParams(),
    *,
    batch_size: int = SAMPLES_PER_REQUEST,
) -> tuple[Array, Array]:
    """Answer `completion`; raises ClientError if the model has no such signature, or fewer rows of tokens."""
    return run(client, completion(image_bytes, class_ids, kept_rows, params, batch_size=batch_size))


def encode(client: Client, image_bytes: Sequence[bytes], *, batch_size: int = BATCH_SIZE) -> Array:
    """Answer `encoding`."""
    return run(client, encoding(image_bytes, batch_size=batch_size))


def decode(client: Client, tokens: Array, *, batch_size: int = BATCH_SIZE) -> Array:
    """Answer `decoding`."""
    return run(client, decoding(tokens, batch_size=batch_size))


def reconstruct(client: Client, image_bytes: Sequence[bytes], *, batch_size: int = BATCH_SIZE) -> Array:
    """Answer `reconstruction`."""
    return run(client, reconstruction(image_bytes, batch_size=batch_size))


def classify(client: Client, image_bytes: Sequence[bytes], *, batch_size: int = BATCH_SIZE) -> Array:
    """Answer `classification`."""
    return run(client, classification(image_bytes, batch_size=batch_size))


def _check_has_classes(known: Sequence[str], names: Sequence[str]) -> None:
    if names and not known:
        raise ValueError(f"class must be absent for a model without classes, got {names[0]!r}")


def _class_id(known: Sequence[str], name: str, choices: str) -> int:
    if name in known:
        return known.index(name)
    index = name.removeprefix(INDEX)
    if name.startswith(INDEX) and index.isascii() and index.isdecimal() and int(index) < len(known):
        return int(index)
    raise ValueError(f"class must be one of {choices}, got {name!r}{did_you_mean(name, known)}")


def _listed(known: Sequence[str]) -> str:
    more = ", ..." if len(known) > _NAMES_SHOWN else ""
    return f"{INDEX}0 to {INDEX}{len(known) - 1}, {', '.join(known[:_NAMES_SHOWN])}{more}"


def _inputs(params: SamplingParams, class_ids: Sequence[int]) -> dict[str, Array]:
    return params.inputs(np.asarray(class_ids), params.seed + np.arange(len(class_ids), dtype=np.int64))


def _sampling(signature: str, inputs: Mapping[str, Array], batch_size: int) -> Query[tuple[Array, Array]]:
    def read(answer: Mapping[str, Array]) -> tuple[Array, Array]:
        return _pixels(answer), answer["tokens"]

    return Query(GENERATOR, signature, inputs, ("image_bytes", "tokens"), read, batch_size)


def _sendable(files: Sequence[bytes]) -> Array:
    """Image files as the models read them: upright and sRGB; the model puts them on its ground."""
    # Several completions of an image are asked for by the same bytes several times.
    sendable: dict[int, bytes] = {}
    for index, file in enumerate(files):
        if id(file) in sendable:
            continue
        try:
            sendable[id(file)] = standardize(file, ground=None).content
        except UnreadableImage as error:
            raise ValueError(f"image {index + 1} of {len(files)} {error}") from error
    # NumPy's own string type drops trailing zero bytes.
    return np.array([sendable[id(file)] for file in files], dtype=object)


def _pixels(answer: Mapping[str, Array]) -> Array:
    try:
        files = answer["image_bytes"]
        return np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in files])
    except (OSError, TypeError, ValueError) as error:
        raise ClientError("image_bytes in the answer must be PNGs; is this a tfx-vim model?") from error
