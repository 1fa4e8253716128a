import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngImageFile

from serving.export import standard_image
from serving.export.standard_image import Header, UnreadableImage, read_header, standardize, to_pixels
from tests.serving.export.image_files import FILES, encoded, hidden, linear_profile, turned, two_halves

UNTOUCHED = (
    "JPEG",
    "JPEG, progressive",
    "JPEG, malformed orientation",
    "JPEG, broken profile",
    "JPEG, grey with a profile of colours",
    "PNG",
    "PNG, palette",
    "PNG, 1 bit",
    "PNG, animated",
    "PNG, broken profile",
)


@pytest.mark.parametrize("kind", FILES)
def test_only_what_every_decoder_shows_alike_stays_byte_for_byte(kind):
    standard = standardize(FILES[kind].content)
    assert (standard.content == FILES[kind].content) == (kind in UNTOUCHED)
    assert standard.encoding == ("jpeg" if kind in UNTOUCHED and kind.startswith("JPEG") else "png")
    assert (standard.height, standard.width) == FILES[kind].pixels.shape[:2]
    assert standard.frames == (2 if "animated" in kind else 1)


def test_srgb_profile_and_upright_tag_leave_a_jpeg_as_it_is():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({"icc_profile": srgb}, {"icc_profile": b"no profile"}):
        content = encoded(two_halves(), "JPEG", **options)
        assert standardize(content).content == content
    assert standardize(turned(1, "JPEG")).content == turned(1, "JPEG")


def test_malformed_exif_is_ignored():
    content = turned(6, "JPEG").replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
    assert to_pixels(content).size == (32, 16)


def test_transparency_stays_for_a_model_that_knows_its_ground():
    picture, _ = hidden()
    content = encoded(picture, "PNG")
    assert standardize(content, ground=None).content == content
    webp = standardize(encoded(picture, "WEBP", lossless=True), ground=None)
    with Image.open(io.BytesIO(webp.content)) as kept:
        assert kept.mode == "RGBA"
        assert kept.getpixel((0, 0))[3] == 0


def test_ground_is_behind_transparent_pixels_only():
    pixels = to_pixels(encoded(hidden()[0], "PNG"), "#102030")
    assert pixels.getpixel((0, 0)) == (0x10, 0x20, 0x30)
    assert pixels.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        ("JPEG", Header("JPEG", 32, 16, "RGB", 1)),
        ("JPEG, turned 6", Header("JPEG", 16, 32, "RGB", 1)),
        ("JPEG, CMYK", Header("JPEG", 32, 16, "CMYK", 1)),
        ("PNG, transparent", Header("PNG", 16, 16, "RGBA", 1)),
        ("WebP, animated", Header("WEBP", 32, 16, "RGB", 2)),
    ],
)
def test_header_tells_size_as_shown_mode_and_frames(kind, header):
    assert read_header(io.BytesIO(FILES[kind].content)) == header


@pytest.mark.parametrize("read", [standardize, to_pixels, lambda content: read_header(io.BytesIO(content))])
def test_other_bytes_and_oversized_images_are_refused(read, monkeypatch):
    for content in (b"", b"<html>404</html>"):
        with pytest.raises(UnreadableImage, match=r"must be a JPEG, .* or PPM image"):
            read(content)
    monkeypatch.setattr(standard_image, "MAX_PIXELS", 100)
    with pytest.raises(UnreadableImage, match="must have at most 100 pixels, got 32 x 16"):
        read(FILES["PNG"].content)


def test_formats_that_may_open_other_files_are_refused():
    # A PostScript file runs a program, and has no business in a data set.
    with pytest.raises(UnreadableImage, match=r"must be a JPEG, .* or PPM image"):
        standardize(encoded(two_halves(), "EPS"))


@pytest.mark.parametrize("values", [np.zeros([4, 4], np.int32), np.zeros([4, 4], np.float32)])
def test_more_than_16_bits_a_channel_are_refused(values):
    with pytest.raises(UnreadableImage, match="must have at most 16 bits a channel"):
        standardize(encoded(Image.fromarray(values), "TIFF"))


def test_profile_is_left_out_of_what_is_sent_without_decoding():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = encoded(two_halves(), "JPEG")
    assert standardize(encoded(two_halves(), "JPEG", icc_profile=srgb), ground=None).content == plain


def test_orientation_in_xmp_is_ignored_as_in_browsers():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    content = encoded(two_halves(), "JPEG", xmp=xmp)
    assert standardize(content).content == content


def test_header_of_a_png_is_read_without_decoding(monkeypatch):
    monkeypatch.setattr(PngImageFile, "load", lambda *_: pytest.fail("the image was decoded"))
    assert read_header(io.BytesIO(FILES["PNG"].content)).width == 32


def test_header_of_a_turned_tiff_is_as_shown():
    header = read_header(io.BytesIO(FILES["TIFF, turned"].content))
    assert (header.width, header.height) == (16, 32)


@pytest.mark.parametrize(("bits", "photometric", "expected"), [(12, 1, 0x80), (16, 1, 0x08), (16, 0, 0xF7)])
def test_grey_tiff_of_more_than_8_bits_is_scaled_by_its_own_depth(bits, photometric, expected):
    # Two pixels of 0x800 and 0x80f in 12 bits, or one of 0x0800 in 16.
    data = b"\x80\x08\x0f" if bits == 12 else b"\x00\x08"
    width = 2 if bits == 12 else 1
    tags = [
        (256, width),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(data)),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags
    )
    start = 8 + len(data) + len(data) % 2
    content = b"II*\0" + struct.pack("<I", start) + data + bytes(len(data) % 2) + directory + bytes(4)
    assert to_pixels(content).getpixel((0, 0)) == (expected,) * 3


def test_grey_with_a_colour_profile_of_rgb_ignores_it():
    content = encoded(Image.fromarray(two_halves()).convert("L"), "JPEG", icc_profile=linear_profile())
    assert standardize(content).content == content


def test_cut_file_is_refused():
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        standardize(FILES["JPEG"].content[:-200])


def test_an_image_with_more_pixels_than_allowed_is_made_smaller_upright_and_in_proportion():
    wide = Image.fromarray(two_halves()).resize((300, 100))
    small = encoded(wide, "PNG")
    assert standard_image.fitted(small, 30_000) is small
    picture = Image.open(io.BytesIO(standard_image.fitted(small, 7_500)))
    assert (picture.format, picture.size) == ("JPEG", (150, 50))
    smaller = np.asarray(wide.resize((150, 50), Image.Resampling.BICUBIC), np.int16)
    assert np.abs(np.asarray(picture, np.int16) - smaller).max() <= 6
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright = standard_image.fitted(encoded(wide, "JPEG", exif=exif), 7_500)
    assert Image.open(io.BytesIO(upright)).size == (50, 150)
    line = encoded(Image.new("RGB", (1000, 1)), "PNG")
    assert Image.open(io.BytesIO(standard_image.fitted(line, 10))).size == (10, 1)
    long = encoded(Image.new("RGB", (70_000, 3)), "PNG")
    assert Image.open(io.BytesIO(standard_image.fitted(long, 209_000))).size == (65_500, 2)
    transparent = Image.new("RGBA", (100, 100), (255, 0, 0, 10))
    kept = Image.open(io.BytesIO(standard_image.fitted(encoded(transparent, "PNG"), 99)))
    assert (kept.format, kept.size, kept.getpixel((3, 3))) == ("PNG", (9, 9), (255, 0, 0, 10))
    with pytest.raises(UnreadableImage, match="must be a JPEG"):
        standard_image.fitted(b"no picture", 10)
