"""What one asks the two models for: pictures of a class or begun by another, tokens of a picture, and back.

Pictures are uint8 [N, S, S, 3] here and PNG bytes on the wire. Requests go out in batches, so any
number of rows can be asked for, and the answer does not depend on the batch size.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from serving.client import Client
from serving.errors import ClientError
from serving.metadata import Metadata

TOKENIZER = "vit_vqgan"
GENERATOR = "vim"
BATCH_SIZE = 64
# More rows at once are drawn no faster (docs/performance.md), and an answer takes the longer.
DRAWN_AT_ONCE = 16
# Photos are large: a batch stays far below the servers' 64 MiB, base64 included.
BATCH_BYTES = 16 * 2**20
ALL = "all"
# How the guidance scale goes from token to token, and the signature that draws so.
GUIDANCE_SCHEDULES = {"constant": "generate", "linear": "generate_linear"}

# As many class names as still make a readable line.
_NAMES_SHOWN = 20


def class_ids(metadata: Metadata, names: Sequence[str]) -> list[int]:
    """The ids behind what a user calls classes: names, numbers, or `all`.

    Raises:
      ValueError: for what is neither; one line with what is allowed.
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
    """The id behind the one class that a user names, by name or number; 0 where the model has no classes.

    Raises:
      ValueError: for no class or several, or one that is not known; one line with what is allowed.
    """
    known = metadata.class_names
    _check_has_classes(known, names)
    if not known:
        return 0
    if len(names) != 1:
        given = ", ".join(map(repr, names)) or "none"
        raise ValueError(f"class given is {given}, allowed is exactly one of {_listed(known)}")
    return _class_id(known, names[0], _listed(known))


def kept_rows(metadata: Metadata, share: float) -> int:
    """The rows of tokens that make up a share of the grid: the nearest number, of two the larger one.

    Args:
      metadata: its `tokens` are the grid's, which is square.
      share: in [0, 1].

    Raises:
      ValueError: for any other share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share of rows to keep is {share:g}, allowed is 0 to 1")
    return math.floor(share * math.isqrt(metadata.tokens) + 0.5)


def generate(
    client: Client,
    class_ids: Sequence[int],
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    guidance_schedule: str = "constant",
    batch_size: int = DRAWN_AT_ONCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one picture a row.

    Args:
      client: where VIM is.
      class_ids: a class for every row; without classes the ids have no meaning, and 0 serves.
      seed: of the first row; row i is drawn with seed + i, so a row can be drawn again alone.
      temperature: 0 takes the likeliest token, 1 samples from the model itself.
      top_k: tokens to choose from, 0 for all.
      top_p: share of the probability to choose from, in (0, 1].
      guidance: strength of classifier-free guidance, 1 for none.
      guidance_schedule: "constant", or "linear" from 1 at the first token to `guidance` at the last.
      batch_size: rows a request.

    Returns:
      (pictures uint8 [N, S, S, 3], tokens int32 [N, T]).

    Raises:
      ValueError: for another schedule.
      ClientError: where the model has no signature for the schedule.
    """
    if guidance_schedule not in GUIDANCE_SCHEDULES:
        allowed = ", ".join(GUIDANCE_SCHEDULES)
        raise ValueError(f"guidance_schedule is {guidance_schedule!r}, allowed are {allowed}")
    inputs = _sampling(class_ids, seed, temperature, top_k, top_p, guidance)
    return _draw(client, GUIDANCE_SCHEDULES[guidance_schedule], inputs, batch_size)


def complete(
    client: Client,
    image_bytes: Sequence[bytes],
    class_ids: Sequence[int],
    kept_rows: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    batch_size: int = DRAWN_AT_ONCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the first rows of each picture's grid of tokens and draws the rest.

    Args:
      client: where VIM is.
      image_bytes: a picture (JPEG, PNG or BMP bytes) of any size for every row.
      class_ids: a class for every row, as for `generate`.
      kept_rows: rows of tokens to keep, 0 to the side of the grid.
      seed, temperature, top_k, top_p, guidance, batch_size: as for `generate`; the guidance is constant.

    Returns:
      (pictures uint8 [N, S, S, 3], tokens int32 [N, T]).

    Raises:
      ClientError: where the model has no signature `complete`, or not so many rows of tokens.
      ValueError: where there are not as many classes as pictures.
    """
    if len(class_ids) != len(image_bytes):
        raise ValueError(f"{len(class_ids)} classes were given for {len(image_bytes)} pictures")
    inputs = {
        "image_bytes": _strings(image_bytes),
        "kept_rows": np.full(len(image_bytes), kept_rows, np.int32),
        **_sampling(class_ids, seed, temperature, top_k, top_p, guidance),
    }
    return _draw(client, "complete", inputs, batch_size)


def encode(client: Client, image_bytes: Sequence[bytes], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Pictures of any size (JPEG, PNG or BMP bytes) to tokens int32 [N, T], raster order."""
    inputs = {"image_bytes": _strings(image_bytes)}
    return _ask_tokenizer(client, "encode", inputs, "tokens", batch_size)


def decode(client: Client, tokens: np.ndarray, *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Tokens int32 [N, T] to pictures uint8 [N, S, S, 3]."""
    inputs = {"tokens": np.asarray(tokens, np.int32)}
    return _pixels(_ask_tokenizer(client, "decode", inputs, "image_bytes", batch_size))


def reconstruct(client: Client, image_bytes: Sequence[bytes], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Pictures of any size to what the tokenizer keeps of them, uint8 [N, S, S, 3]."""
    inputs = {"image_bytes": _strings(image_bytes)}
    return _pixels(_ask_tokenizer(client, "reconstruct", inputs, "image_bytes", batch_size))


def _check_has_classes(known: Sequence[str], names: Sequence[str]) -> None:
    if names and not known:
        raise ValueError(f"class {names[0]!r} was given, but the model has no classes")


def _class_id(known: Sequence[str], name: str, allowed: str) -> int:
    if name in known:
        return known.index(name)
    if name.isascii() and name.isdecimal() and int(name) < len(known):
        return int(name)
    raise ValueError(f"class {name!r} is not known, allowed are {allowed}")


def _listed(known: Sequence[str]) -> str:
    more = ", ..." if len(known) > _NAMES_SHOWN else ""
    return f"0 to {len(known) - 1}, {', '.join(known[:_NAMES_SHOWN])}{more}"


def _sampling(
    class_ids: Sequence[int], seed: int, temperature: float, top_k: int, top_p: float, guidance: float
) -> dict[str, np.ndarray]:
    rows = len(class_ids)
    return {
        "class_id": np.asarray(class_ids, np.int32),
        "seed": seed + np.arange(rows, dtype=np.int64),
        "temperature": np.full(rows, temperature, np.float32),
        "top_k": np.full(rows, top_k, np.int32),
        "top_p": np.full(rows, top_p, np.float32),
        "guidance": np.full(rows, guidance, np.float32),
    }


def _draw(
    client: Client, signature: str, inputs: Mapping[str, np.ndarray], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    answer = _in_batches(
        lambda batch: client.predict(GENERATOR, signature, batch),
        inputs,
        ("image_bytes", "tokens"),
        batch_size,
    )
    return _pixels(answer["image_bytes"]), answer["tokens"]


def _ask_tokenizer(
    client: Client, signature: str, inputs: Mapping[str, np.ndarray], output: str, batch_size: int
) -> np.ndarray:
    return _in_batches(
        lambda batch: client.predict(TOKENIZER, signature, batch), inputs, (output,), batch_size
    )[output]


def _in_batches(
    ask: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    batch_size: int,
) -> dict[str, np.ndarray]:
    answers = [
        ask({name: array[batch] for name, array in inputs.items()}) for batch in _batches(inputs, batch_size)
    ]
    if missing := set(outputs) - set(answers[0]):
        raise ClientError(f"the model's answer lacks {', '.join(sorted(missing))}: is it one of our models?")
    return {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}


def _batches(inputs: Mapping[str, np.ndarray], batch_size: int) -> Iterator[slice]:
    """Slices of at most `batch_size` rows and, beyond the first row of each, BATCH_BYTES of strings."""
    strings = [array for array in inputs.values() if array.dtype == object]
    rows = len(next(iter(inputs.values())))
    start = size = 0
    for row in range(rows):
        more = sum(len(array[row]) for array in strings)
        if row > start and (row - start == batch_size or size + more > BATCH_BYTES):
            yield slice(start, row)
            start, size = row, 0
        size += more
    yield slice(start, rows)


def _strings(values: Sequence[bytes]) -> np.ndarray:
    # numpy's own string type would drop trailing zero bytes.
    return np.array(values, dtype=object)


def _pixels(image_bytes: np.ndarray) -> np.ndarray:
    try:
        return np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in image_bytes])
    except (OSError, TypeError, ValueError) as error:
        raise ClientError("the model's answer holds no pictures: is it one of our models?") from error
