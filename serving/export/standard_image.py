"""Image files of any kind to what people see in them: upright sRGB pixels of 8 bits on a ground.

Every file of a user comes in here: the images of a data set, those that the command line sends to a model,
and those that are shown beside an answer. So all of them agree with each other and with a browser. Nothing
here imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from serving.export.metadata import MAX_PIXELS, WHITE
from serving.wire.errors import one_line

# The only formats that Pillow may open, with their usual suffixes: fewer decoders are a smaller risk with
# untrusted bytes.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2",),
    "PPM": (".ppm", ".pgm", ".pbm"),
}
FORMATS = tuple(SUFFIXES)
ALL_SUFFIXES = frozenset(suffix for own in SUFFIXES.values() for suffix in own)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Modes of a channel of 16 bits. Pillow reads a 16-bit PPM as "I", scaled to 16 bits.
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
# Tags of a TIFF.
_BITS, _PHOTOMETRIC = 258, 262
_PLAIN = ("1", "L", "P", "RGB")
# Of a JPEG.
_LONGEST_SIDE = 65_500
# Largest difference, in levels, at which a colour profile counts as sRGB.
_SAME_COLOUR = 2


class UnreadableImage(ValueError):
    """Bytes that are no image, or none that can be shown; the message is one line."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file tell.

    Attributes:
      encoding: Pillow's name of the format.
      width: pixels, as people see it.
      height: likewise.
      mode: Pillow's colour mode.
      frames: 2 or more for an animation, of which the first frame is used.
    """

    encoding: str
    width: int
    height: int
    mode: str
    frames: int


@dataclass(frozen=True)
class StandardImage:
    """An image that every reader shows alike.

    Attributes:
      content: JPEG or PNG bytes.
      encoding: "jpeg" or "png".
      width: pixels.
      height: pixels.
      frames: of the file it was read from, of which this is the first.
    """

    content: bytes
    encoding: str
    width: int
    height: int
    frames: int = 1


def read_header(file: BinaryIO) -> Header:
    """Read the header of an image file; nothing is decoded.

    Raises:
      UnreadableImage: it is no image in a known format, or too large.
    """
    with _opened(file) as picture:
        width, height = picture.size
        if _orientation(picture) >= 5:
            width, height = height, width
        return Header(picture.format or "", width, height, picture.mode, _frames(picture))


def standardize(content: bytes, ground: str | None = WHITE) -> StandardImage:
    """Make an image upright, sRGB and of 8 bits a channel.

    A JPEG or PNG that is so already stays as it is, byte for byte; every other image becomes a PNG.

    Args:
      content: a file in one of `FORMATS`.
      ground: the colour behind transparent pixels, "#rrggbb"; None keeps them transparent, for a model that
        knows its ground.

    Raises:
      UnreadableImage: it is no image in a known format, damaged, or too large.
    """
    with _opened(io.BytesIO(content)) as picture:
        frames = _frames(picture)
        raw = _Raw.of(picture)
        picture.load()  # a PNG may have its EXIF data behind the pixels
        if _is_standard(picture, transparent=ground is None):
            encoding = "png" if picture.format == "PNG" else "jpeg"
            # A server knows fewer names of sRGB than `_conversion`, and refuses broken profiles.
            profiled = ground is None and "icc_profile" in picture.info
            if not profiled or encoding == "jpeg":
                kept = _without_profile(content) if profiled else content
                return StandardImage(kept, encoding, *picture.size, frames)
        shown = _shown(picture, raw, ground)
        buffer = io.BytesIO()
        shown.save(buffer, "PNG")
        return StandardImage(buffer.getvalue(), "png", *shown.size, frames)


def to_pixels(content: bytes, ground: str = WHITE) -> Image.Image:
    """The pixels that `standardize` would keep, as an RGB picture.

    Raises:
      UnreadableImage: as for `standardize`.
    """
    with _opened(io.BytesIO(content)) as picture:
        raw = _Raw.of(picture)
        picture.load()
        return _shown(picture, raw, ground)


def fitted(content: bytes, max_pixels: int) -> bytes:
    """The file itself, or if it has more than `max_pixels`, a smaller picture of at most as many.

    Upright and sRGB; a JPEG of quality 95, which fits into a request, or a PNG if it is transparent.

    Raises:
      UnreadableImage: as for `standardize`.
    """
    with _opened(io.BytesIO(content)) as picture:
        width, height = picture.size
        if width * height <= max_pixels:
            return content
        raw = _Raw.of(picture)
        picture.load()
        shown = _shown(picture, raw, None)
    share = math.sqrt(max_pixels / (width * height))
    size = [max(1, min(math.floor(side * share), max_pixels, _LONGEST_SIDE)) for side in shown.size]
    buffer = io.BytesIO()
    smaller = shown.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    if smaller.mode == "RGBA":
        smaller.save(buffer, "PNG")
    else:
        smaller.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images; they are refused below
            with Image.open(file, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise UnreadableImage(f"must have at most {MAX_PIXELS} pixels, got {width} x {height}")
                yield picture
    except UnreadableImage:
        raise
    # Pillow's message has the address of a buffer, which differs in every run.
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"must be a {_listed()} image") from error
    # Pillow's decoders raise many types on malformed bytes, from SyntaxError to struct.error.
    except Exception as error:
        raise UnreadableImage(f"cannot be decoded: {one_line(error)}") from error


def _listed() -> str:
    *most, last = FORMATS
    return f"{', '.join(most)} or {last}"


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it cannot be read.

    Only that of EXIF data, as in browsers: Pillow's `getexif` also reads XMP, and decodes a PNG for it.
    """
    if picture.format == "TIFF":  # Pillow has turned it
        return 1
    exif = Image.Exif()
    try:
        exif.load(picture.info.get("exif") or b"")
        value = exif.get(ExifTags.Base.Orientation, 1)
    # Malformed EXIF raises many types. Browsers show such an image as it is stored.
    except Exception:
        return 1
    return value if value in _TURNS else 1


def _frames(picture: Image.Image) -> int:
    # The images after the first of an MPO are depth maps or previews.
    return 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)


def _is_standard(picture: Image.Image, *, transparent: bool) -> bool:
    """Whether every decoder shows the file as people see it; `transparent` allows for an alpha channel."""
    return (
        picture.format in ("JPEG", "MPO", "PNG")  # cameras write MPO: a JPEG followed by more images
        and (picture.mode in _PLAIN or (transparent and picture.mode in ("LA", "RGBA")))
        and (transparent or not picture.has_transparency_data)
        and _orientation(picture) == 1
        and _is_srgb(picture)
    )


def _is_srgb(picture: Image.Image) -> bool:
    profile = picture.info.get("icc_profile")
    return not profile or _conversion(profile, "L" if picture.mode in ("1", "L", "LA") else "RGB") is None


class _Raw(NamedTuple):
    """How the values of a picture are stored, known only before it is decoded.

    Attributes:
      bits: of a grey value.
      inverted: whether 0 is white in a grey value of 16 bits.
      transparency: the hidden value or colour of a PNG, in the levels of the decoded picture.
    """

    bits: int = 16
    inverted: bool = False
    transparency: Any = None

    @classmethod
    def of(cls, picture: Image.Image) -> _Raw:
        """Read it from an opened picture."""
        if picture.format == "TIFF":
            tags = picture.tag_v2  # type: ignore[attr-defined]
            return cls(tags.get(_BITS, (16,))[0], tags.get(_PHOTOMETRIC) == 0)
        hidden = picture.info.get("transparency")
        mode = picture.tile[0][3] if picture.format == "PNG" and picture.tile else ""  # type: ignore[attr-defined]
        # Pillow scales the values, but not the hidden one.
        if isinstance(hidden, int) and mode in ("L;2", "L;4"):
            hidden *= 85 if mode == "L;2" else 17
        if isinstance(hidden, tuple) and mode == "RGB;16B":
            hidden = tuple(value >> 8 for value in hidden)
        return cls(transparency=hidden)


def _shown(picture: Image.Image, raw: _Raw, ground: str | None) -> Image.Image:
    """A decoded picture as people see it, in RGB, or without a ground in RGBA if it is transparent."""
    profile = picture.info.get("icc_profile")
    orientation = _orientation(picture)
    turned = picture.transpose(_TURNS[orientation]) if orientation != 1 else picture
    eight_bit, alpha = _split(
        turned, raw, deep=picture.mode in _DEEP or (picture.format, picture.mode) == ("PPM", "I")
    )
    rgb = _to_srgb(eight_bit, profile)
    if alpha is not None and ground is None:
        rgb.putalpha(alpha)
    elif alpha is not None:
        below = Image.new("RGB", rgb.size, ground)
        below.paste(rgb, mask=alpha)
        return below
    return rgb


def _split(picture: Image.Image, raw: _Raw, *, deep: bool) -> tuple[Image.Image, Image.Image | None]:
    """The colours of a picture in 8 bits (mode L, RGB, CMYK or LAB), and its alpha if it has any."""
    if deep:
        values = np.asarray(picture).astype(np.int64)
        hidden = values == raw.transparency if isinstance(raw.transparency, int) else None
        if raw.inverted:
            values = (1 << raw.bits) - 1 - values
        # The high byte, as libpng strips it: TensorFlow and Pillow read 16-bit colours so.
        grey = Image.fromarray((values >> (raw.bits - 8)).clip(0, 255).astype(np.uint8))
        return grey, None if hidden is None else Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise UnreadableImage(f"must have at most 16 bits a channel, got mode {picture.mode}")
    if picture.has_transparency_data:
        if raw.transparency is not None:
            picture.info["transparency"] = raw.transparency
        with_alpha = picture.convert("RGBA")
        return with_alpha.convert("RGB"), with_alpha.getchannel("A")
    if picture.mode == "1":
        return picture.convert("L"), None
    if picture.mode in ("L", "RGB", "CMYK", "LAB"):
        return picture, None
    return picture.convert("RGB"), None


def _without_profile(jpeg: bytes) -> bytes:
    """A JPEG without the segments of its colour profile; the pixels stay as they are."""
    kept, at = [jpeg[:2]], 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        end = at + 1 if marker == 0xFF else at + 2 + max(length, 2)  # fill bytes are no segment
        if marker != 0xE2 or not jpeg[at + 4 :].startswith(b"ICC_PROFILE\0"):
            kept.append(jpeg[at:end])
        at = end
    return b"".join([*kept, jpeg[at:]])


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    conversion = _conversion(profile, picture.mode) if profile else None
    if conversion is not None:
        converted = ImageCms.applyTransform(picture, conversion)
        if converted is not None:
            return converted
    return picture.convert("RGB")


@functools.lru_cache(maxsize=64)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of a colour profile to sRGB; None if it is sRGB, broken, or for another mode.

    Browsers show an image with a broken profile as if it had none.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode not in ("L", "RGB"):
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        colours = levels[np.newaxis]
    else:
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    sample = Image.fromarray(colours)
    converted = ImageCms.applyTransform(sample, transform)
    if converted is None:
        return None
    moved = np.abs(np.asarray(converted, np.int16) - np.asarray(sample.convert("RGB"), np.int16))
    return transform if moved.max() > _SAME_COLOUR else None


@functools.lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
