"""Image files of every kind that people have, each with the pixels that a browser shows."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
SIDE = 16


class File(NamedTuple):
    """A file, its pixels uint8 [H, W, 3], and why a server refuses it if it does."""

    content: bytes
    pixels: np.ndarray
    refusal: str = ""


def two_halves(width: int = 2 * SIDE, height: int = SIDE) -> np.ndarray:
    """Red on the left, blue on the right."""
    pixels = np.zeros([height, width, 3], np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    return pixels


def encoded(picture: Image.Image | np.ndarray, encoding: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, encoding, **options)
    return buffer.getvalue()


def turned(orientation: int, encoding: str, **options) -> bytes:
    """Two halves as stored, with a tag that says how to turn them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(two_halves(), encoding, exif=exif, **options)


def hidden(mode: str = "RGBA") -> tuple[Image.Image, np.ndarray]:
    """A red square on nothing, with noise below the nothing; and on white."""
    pixels = np.random.default_rng(0).integers(0, 256, [SIDE, SIDE, 4]).astype(np.uint8)
    pixels[..., 3] = 0
    pixels[4:8, 4:8] = (*RED, 255)
    shown = np.full([SIDE, SIDE, 3], 255, np.uint8)
    picture = Image.fromarray(pixels)
    shown[4:8, 4:8] = RED if mode == "RGBA" else np.asarray(picture.convert("L"))[4, 4]
    return picture.convert(mode), shown


def palette(*, hide: bool) -> tuple[Image.Image, np.ndarray]:
    """Indices 0 and 1 of the palette red, green; green is hidden if `hide`."""
    indices = np.ones([SIDE, SIDE], np.uint8)
    indices[4:8, 4:8] = 0
    picture = Image.fromarray(indices, "P")
    picture.putpalette([255, 0, 0, 0, 255, 0])
    shown = np.where(indices[..., np.newaxis] == 0, RED, WHITE if hide else (0, 255, 0)).astype(np.uint8)
    return picture, shown


def ramp_16() -> tuple[bytes, np.ndarray]:
    """A grey PNG of 16 bits; its pixels are the high bytes."""
    values = np.tile(np.linspace(0, 65535, SIDE).astype(np.uint16), [SIDE, 1])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    grey = (values >> 8).astype(np.uint8)
    return png(SIDE, SIDE, 16, 0, rows), np.repeat(grey[..., np.newaxis], 3, axis=-1)


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG written by hand, with further chunks after its header."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def turned_by(exif: bytes, *, before: bytes = b"") -> bytes:
    """A JPEG of two halves with EXIF data written by hand, and bytes in front of its segment."""
    plain = encoded(two_halves(), "JPEG", quality=100, subsampling=0)
    content = b"Exif\0\0" + exif
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content
    return plain[:2] + before + segment + plain[2:]


def exif(order: str, kind: int, value: bytes, *, magic: int = 42) -> bytes:
    """EXIF data with the orientation alone; `value` has 4 bytes."""
    prefix = b"II" if order == "<" else b"MM"
    return prefix + struct.pack(f"{order}HIHHHI", magic, 8, 1, 0x0112, kind, 1) + value + bytes(4)


def linear_profile(name: bytes = b"linear") -> bytes:
    """A colour profile with the primaries of sRGB and values that are proportional to the light."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    description = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(80)
    gamma_1 = b"curv" + bytes(8)
    tags = {
        b"desc": description,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4360747, 0.2225045, 0.0139322),
        b"gXYZ": xyz(0.3850649, 0.7168786, 0.0971045),
        b"bXYZ": xyz(0.1430804, 0.0606169, 0.7141733),
        b"rTRC": gamma_1,
        b"gTRC": gamma_1,
        b"bTRC": gamma_1,
    }
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def in_linear_light() -> tuple[np.ndarray, np.ndarray]:
    """Values proportional to the light, and their sRGB levels (IEC 61966-2-1)."""
    values = np.tile(np.arange(0, 256, 255 // SIDE, dtype=np.uint8)[:SIDE, np.newaxis], [SIDE, 1, 3])
    light = values / 255
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return values, np.round(255 * srgb).astype(np.uint8)


def _files() -> dict[str, File]:
    halves, upright = two_halves(), two_halves()
    transparent, on_white = hidden()
    grey_transparent, grey_on_white = hidden("LA")
    indexed, shown = palette(hide=False)
    _, shown_hidden = palette(hide=True)
    deep, high_bytes = ramp_16()
    linear, srgb = in_linear_light()
    unknown = "image must be a JPEG, PNG or BMP"
    profile = "image must have the colour profile sRGB or none"
    cmyk = Image.fromarray(halves).convert("CMYK")
    as_rgb = np.asarray(cmyk.convert("RGB"))
    other = Image.fromarray(np.zeros_like(halves))
    files = {
        "JPEG": File(encoded(halves, "JPEG", quality=100, subsampling=0), upright),
        "JPEG, progressive": File(
            encoded(halves, "JPEG", quality=100, subsampling=0, progressive=True), upright
        ),
        "JPEG, CMYK": File(encoded(cmyk, "JPEG", quality=100), as_rgb, "image must be RGB or grey, not CMYK"),
        "JPEG, linear light": File(
            encoded(linear, "JPEG", quality=100, subsampling=0, icc_profile=linear_profile()), srgb, profile
        ),
        "PNG": File(encoded(halves, "PNG"), upright),
        "PNG, turned": File(turned(6, "PNG"), as_people_see(6)),
        "PNG, transparent": File(encoded(transparent, "PNG"), on_white),
        "PNG, grey, transparent": File(encoded(grey_transparent, "PNG"), grey_on_white),
        "PNG, palette": File(encoded(indexed, "PNG"), shown),
        "PNG, palette, transparent": File(encoded(indexed, "PNG", transparency=1), shown_hidden),
        "PNG, 1 bit": File(
            png(16, 2, 1, 0, b"\0\xff\x00" * 2),
            np.repeat(np.repeat([[255, 0]], 8, axis=1).repeat(2, axis=0)[..., np.newaxis], 3, axis=-1),
        ),
        "PNG, 2 bits, transparent": File(
            png(4, 1, 2, 0, b"\0\x1b", chunk(b"tRNS", b"\0\1")),  # the values 0 to 3, of which 1 is hidden
            np.repeat(np.array([[0, 255, 170, 255]])[..., np.newaxis], 3, axis=-1),
        ),
        "PNG, 16 bits of colour, transparent": File(
            png(2, 1, 16, 2, b"\0" + b"\x12\x34" * 3 + b"\x56\x78" * 3, chunk(b"tRNS", b"\x12\x34" * 3)),
            np.array([[[255, 255, 255], [0x56, 0x56, 0x56]]], np.uint8),
        ),
        "JPEG, fill bytes and junk before EXIF": File(
            turned_by(exif("<", 3, b"\6\0\0\0"), before=b"\xff\xff"), as_people_see(6)
        ),
        "JPEG, orientation of 4 bytes": File(turned_by(exif(">", 4, b"\0\0\0\6")), as_people_see(6)),
        "JPEG, malformed orientation": File(turned_by(exif("<", 3, b"\6\0\0\0", magic=7)), upright),
        "JPEG, linear light called sRGB": File(
            encoded(linear, "JPEG", quality=100, subsampling=0, icc_profile=linear_profile(b"sRGB-linear")),
            srgb,
            profile,
        ),
        "JPEG, broken profile": File(
            encoded(halves, "JPEG", quality=100, subsampling=0, icc_profile=b"no profile"), upright, profile
        ),
        "PNG, broken profile": File(
            png(1, 1, 8, 2, b"\0\1\2\3", chunk(b"iCCP", b"name\0\0no zlib")),
            np.array([[[1, 2, 3]]], np.uint8),
            profile,
        ),
        "JPEG, grey with a profile of colours": File(
            encoded(Image.fromarray(halves).convert("L"), "JPEG", quality=100, icc_profile=linear_profile()),
            np.asarray(Image.fromarray(halves).convert("L").convert("RGB")),
            profile,
        ),
        "PNG, 16 bits": File(deep, high_bytes),
        "PNG, animated": File(
            encoded(halves, "PNG", save_all=True, append_images=[other], duration=100), upright
        ),
        "PNG, linear light": File(encoded(linear, "PNG", icc_profile=linear_profile()), srgb, profile),
        "BMP": File(encoded(halves, "BMP"), upright),
        "BMP, palette": File(encoded(indexed, "BMP"), shown),
        "BMP, grey": File(
            encoded(Image.fromarray(halves).convert("L"), "BMP"),
            np.asarray(Image.fromarray(halves).convert("L").convert("RGB")),
        ),
        "BMP, 1 bit": File(
            encoded(Image.fromarray(np.eye(8, dtype=bool)), "BMP"),
            np.repeat(255 * np.eye(8, dtype=np.uint8)[..., np.newaxis], 3, axis=-1),
            "image must have 8, 24 or 32 bits a pixel without compression, if it is a BMP",
        ),
        "GIF": File(encoded(indexed, "GIF"), shown, unknown),
        "GIF, transparent": File(encoded(indexed, "GIF", transparency=1), shown_hidden, unknown),
        "GIF, animated": File(encoded(halves, "GIF", save_all=True, append_images=[other]), upright, unknown),
        "WebP": File(encoded(halves, "WEBP", lossless=True), upright, unknown),
        "WebP, turned": File(turned(6, "WEBP", lossless=True), as_people_see(6), unknown),
        "WebP, transparent": File(encoded(transparent, "WEBP", lossless=True, exact=True), on_white, unknown),
        "WebP, animated": File(
            encoded(halves, "WEBP", save_all=True, append_images=[other], lossless=True), upright, unknown
        ),
        "TIFF": File(encoded(halves, "TIFF"), upright, unknown),
        "TIFF, turned": File(turned(6, "TIFF"), as_people_see(6), unknown),
        "TIFF, 16 bits": File(
            encoded(Image.fromarray(np.full([4, 4], 0x8001, np.uint16)), "TIFF"),
            np.full([4, 4, 3], 0x80, np.uint8),
            unknown,
        ),
        "PPM": File(encoded(halves, "PPM"), upright, unknown),
        "JPEG 2000": File(encoded(halves, "JPEG2000"), upright, unknown),
        "AVIF": File(encoded(halves, "AVIF", quality=100, subsampling="4:4:4"), upright, unknown),
    }
    for orientation in range(2, 9):
        files[f"JPEG, turned {orientation}"] = File(
            turned(orientation, "JPEG", quality=100, subsampling=0), as_people_see(orientation)
        )
    return files


def as_people_see(orientation: int) -> np.ndarray:
    """Two halves turned as EXIF says (table of the standard: where row 0 and column 0 are shown)."""
    stored = two_halves()
    return {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]


FILES = _files()
