"""Images in requests, inside the graph: to the pixels that people see, or a clear refusal, row by row.

TensorFlow's decoders ignore EXIF orientation, hidden pixels, palettes of bitmaps and colour profiles. What a
few operations can put right is put right here; the rest is refused, and the client sends it in a form that
needs nothing (`serving.export.standard_image`).

A graph cannot catch the error of an operation, but a `tf.data.Dataset` can leave out the elements that fail.
So an image that nobody can decode fails alone, also where a server puts requests of several clients together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf
from PIL import ImageColor

from serving.export import images
from serving.export.metadata import MAX_PIXELS, WHITE

# Numbers behind the end of the bytes are read as 0.
_BEHIND = b"\0" * 16
_EXIF = b"Exif\0\0"
_START_OF_SCAN = 0xDA
# Each takes some 30 microseconds to step over; files have some dozens, and a PNG one for 8 KB or more.
_MOST_SEGMENTS, _MOST_CHUNKS, _MOST_ENTRIES = 2000, 10_000, 256
_ORIENTATION = 0x0112
_NO_LABEL = -1
# Of the Examples artifact (`components.tfrecords`).
_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string, default_value=""),
    "image/label": tf.io.FixedLenFeature([], tf.int64, default_value=_NO_LABEL),
}
# Chromaticities of a few hundred bytes up to a scanner's table; those that mean sRGB have 3 KB.
_LARGEST_PNG_PROFILE = 8192


def decode_batch(
    image_bytes: tf.Tensor, size: int, ground: str = WHITE, max_pixels: int = MAX_PIXELS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode and centre-crop images (string [B]).

    JPEG, PNG and BMP, upright and on `ground`, as `standard_image.to_pixels` shows them. Anything else is
    refused, and before decoding if a header states more than `max_pixels` pixels. Colours must be sRGB: a
    CMYK image or one with another colour profile is refused.

    Returns:
      (pixels float32 [B, size, size, 3] in [0, 1], errors string [B]): of an image that is refused, zeros and
      the reason; the others' errors are empty.
    """
    pixels, errors, _ = _decoder(size, ground, max_pixels)(image_bytes)
    return pixels, errors


def decode_examples(
    examples: tf.Tensor, size: int, ground: str = WHITE, max_pixels: int = MAX_PIXELS
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decode serialized tf.Examples (string [B]) with the features of the Examples artifact.

    Returns:
      (pixels, errors) of `image/encoded` as `decode_batch`, and `image/label` int64 [B], -1 where there is
      none.
    """
    return _decoder(size, ground, max_pixels, of_examples=True)(examples)


@functools.lru_cache
def _decoder(
    size: int, ground: str, max_pixels: int, of_examples: bool = False
) -> tf.types.experimental.PolymorphicFunction:
    """One function for all signatures of a model, which makes it half as large and faster to load."""

    def row(index: tf.Tensor, content: tf.Tensor) -> tuple[tf.Tensor, ...]:
        label = tf.constant(_NO_LABEL, tf.int64)
        if of_examples:
            example = tf.io.parse_single_example(content, _FEATURES)
            content, label = example["image/encoded"], example["image/label"]
        pixels, error = _read(content, ground, max_pixels)
        return index, images.center_crop(pixels, size), error, label

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def decode_and_crop(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        rows = tf.size(contents)
        read = tf.data.Dataset.from_tensor_slices((tf.range(rows), contents))
        # Images decoded in parallel are in memory together.
        read = read.map(row, num_parallel_calls=4, deterministic=True).ignore_errors()
        # One more, since of a dataset without elements there is no batch.
        end = (rows, tf.zeros([size, size, 3]), tf.constant(""), tf.constant(_NO_LABEL, tf.int64))
        read = read.concatenate(tf.data.Dataset.from_tensors(end)).with_options(_as_they_are())
        index, pixels, errors, labels = read.batch(tf.cast(rows + 1, tf.int64)).get_single_element()
        index = index[:, tf.newaxis]
        pixels = tf.scatter_nd(index, pixels, [rows + 1, size, size, 3])[:rows]
        whole = "be a tf.Example with a whole image/encoded" if of_examples else "be whole"
        failed = tf.fill([rows + 1], _prefixed(f"{whole}: it cannot be decoded"))
        errors = tf.tensor_scatter_nd_update(failed, index, errors)[:rows]
        none = tf.fill([rows + 1], tf.constant(_NO_LABEL, tf.int64))
        labels = tf.tensor_scatter_nd_update(none, index, labels)[:rows]
        return pixels, errors, labels

    return decode_and_crop


def _as_they_are() -> tf.data.Options:
    """Options under which a dataset is not analysed at each request."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options


def decode(image_bytes: tf.Tensor, ground: str = WHITE, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decode one image (scalar string) to float32 [height, width, 3] in [0, 1], as for `decode_batch`.

    Raises `InvalidArgumentError` if it is refused.
    """
    pixels, error = _read(image_bytes, ground, max_pixels)
    # The bare operation: `tf.debugging` adds a branch with a function of its own.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=error == "", data=[error])]):
        return tf.identity(pixels)


def _read(image_bytes: tf.Tensor, ground: str, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixels of one image and why it is refused: "", or the pixels are a black one.

    The decoders raise errors of their own.
    """
    data = tf.strings.join([image_bytes, _BEHIND])
    is_jpeg, is_png = _starts(data, b"\xff\xd8\xff"), _starts(data, b"\x89PNG\r\n\x1a\n")
    is_bmp = _starts(data, b"BM")
    kind = tf.where(is_jpeg, 0, tf.where(is_png, 1, tf.where(is_bmp, 2, 3)))
    pixels, exif, error = tf.switch_case(
        kind,
        [
            lambda: _jpeg(image_bytes, data, max_pixels),
            lambda: _png(image_bytes, data, ground, max_pixels),
            lambda: _bmp(image_bytes, data, max_pixels),
            lambda: (tf.zeros([1, 1, 3]), tf.constant(b""), _prefixed("be a JPEG, PNG or BMP")),
        ],
    )
    pixels = _turned(pixels, _orientation(exif))
    pixels.set_shape([None, None, 3])
    return pixels, error


def _unless(error: tf.Tensor, pixels: Callable[[], tf.Tensor]) -> tf.Tensor:
    """The pixels of an image that is not refused, which is not decoded else."""
    return tf.cond(
        error == "", lambda: tf.ensure_shape(pixels(), [None, None, 3]), lambda: tf.zeros([1, 1, 3])
    )


def _jpeg(image_bytes: tf.Tensor, data: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    exif, profile, error = _jpeg_segments(data)
    shape = tf.image.extract_jpeg_shape(image_bytes)
    error = _first(
        error,
        _size_error(shape[0], shape[1], max_pixels),
        _error_unless(shape[2] != 4, "be RGB or grey, not CMYK"),
        _profile_error(profile),
    )
    return _unless(error, lambda: _scaled(images.decode_jpeg(image_bytes))), exif, error


def _png(
    image_bytes: tf.Tensor, data: tf.Tensor, ground: str, max_pixels: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    exif, profile, hidden, error = _png_chunks(data)
    error = _first(
        error, _size_error(_number(data, 16, 4), _number(data, 20, 4), max_pixels), _profile_error(profile)
    )

    def on_ground() -> tf.Tensor:
        pixels = _scaled(tf.image.decode_png(image_bytes, channels=4))
        colour, alpha = pixels[..., :3], pixels[..., 3:]
        return colour * alpha + tf.constant(ImageColor.getrgb(ground), tf.float32) / 255.0 * (1.0 - alpha)

    # The colour types with alpha. Not 4 channels for every PNG: for less than 8 bits of grey, the alpha that
    # TensorFlow adds is not 255.
    has_alpha = (_number(data, 25, 1) == 4) | (_number(data, 25, 1) == 6) | hidden

    def plain() -> tf.Tensor:
        return _scaled(tf.image.decode_png(image_bytes, channels=3))

    return _unless(error, lambda: tf.cond(has_alpha, on_ground, plain)), exif, error


def _bmp(image_bytes: tf.Tensor, data: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    # The header: its own size at 14, width at 18, height at 22, bits at 28, compression at 30, colours at 46.
    bits, header = _number(data, 28, 2, little=True), _number(data, 14, 4, little=True)
    compression = _number(data, 30, 4, little=True)
    readable = ((bits == 8) | (bits == 24) | (bits == 32)) & (compression == 0) & (header >= 40)
    width, height = (_number(data, at, 4, little=True) for at in (18, 22))
    error = _first(
        _error_unless(readable, "have 8, 24 or 32 bits a pixel without compression, if it is a BMP"),
        # Rows from top to bottom have a negative height.
        _size_error(tf.abs(height), tf.abs(width), max_pixels),
    )

    def palette() -> tf.Tensor:
        indices = tf.image.decode_bmp(image_bytes)[..., 0]
        stated = _number(data, 46, 4, little=True)
        colours = tf.where((stated > 0) & (stated <= 256), stated, 256)
        entries = tf.reshape(_integers(_part(data, 14 + header, 4 * colours)), [-1, 4])
        indices = tf.cast(indices, tf.int32)
        # Blue, green, red, 0. An index behind the palette is an error of this operation.
        return tf.gather(entries[:, 2::-1], indices)

    def direct(channels: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.cast(tf.image.decode_bmp(image_bytes, channels=channels)[..., :3], tf.int32)

    def pixels() -> tf.Tensor:
        return _scaled(tf.case([(bits == 8, palette), (bits == 24, direct(3))], direct(4)))

    return _unless(error, pixels), tf.constant(b""), error


def _jpeg_segments(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The EXIF data of a JPEG (a TIFF file), its colour profile's first part, and why it is refused.

    Each is empty if there is none.
    """

    def more(at: tf.Tensor, index: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return (
            (_number(data, at, 2) != 0xFF00 + _START_OF_SCAN) & (at < _end(data)) & (index < _MOST_SEGMENTS)
        )

    def step(
        at: tf.Tensor, index: tf.Tensor, exif: tf.Tensor, profile: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        marker, length = _number(data, at + 1, 1), _number(data, at + 2, 2)
        # Between segments there may be fill bytes and junk, which decoders skip.
        is_segment = (_number(data, at, 1) == 0xFF) & (marker != 0xFF) & (marker != 0)
        content = _part(data, at + 4, length - 2)
        is_exif = is_segment & (marker == 0xE1) & _starts(content, _EXIF)
        is_profile = is_segment & (marker == 0xE2) & _starts(content, b"ICC_PROFILE\0")
        exif = tf.where(is_exif & (exif == b""), content, exif)
        profile = tf.where(is_profile & (profile == b""), _part(content, 14, length), profile)
        return at + tf.where(is_segment, 2 + tf.maximum(length, 2), 1), index + 1, exif, profile

    start = [tf.constant(2), tf.constant(0), tf.constant(b""), tf.constant(b"")]
    _, index, exif, profile = tf.while_loop(more, step, start)
    return exif, profile, _error_unless(index < _MOST_SEGMENTS, "have fewer segments in its header")


def _png_chunks(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The EXIF data of a PNG (a TIFF file), its colour profile, whether it hides colours, and the error.

    All but the third are empty if there are none.
    """

    def more(at: tf.Tensor, index: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return (at < _end(data)) & (_part(data, at + 4, 4) != b"IEND") & (index < _MOST_CHUNKS)

    def step(
        at: tf.Tensor, index: tf.Tensor, exif: tf.Tensor, profile: tf.Tensor, hidden: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        length, kind = _number(data, at, 4), _part(data, at + 4, 4)
        exif = tf.where(kind == b"eXIf", _part(data, at + 8, length), exif)
        profile = tf.where(kind == b"iCCP", _part(data, at + 8, length), profile)
        hidden = hidden | (kind == b"tRNS")
        # The chunk's length, kind and checksum are beside its content.
        return at + 12 + tf.clip_by_value(length, 0, _end(data)), index + 1, exif, profile, hidden

    start = [tf.constant(8), tf.constant(0), tf.constant(b""), tf.constant(b""), tf.constant(False)]
    _, index, exif, profile, hidden = tf.while_loop(more, step, start)
    return exif, _inflated(profile), hidden, _error_unless(index < _MOST_CHUNKS, "have fewer chunks")


def _inflated(profile: tf.Tensor) -> tf.Tensor:
    """The colour profile in a PNG's chunk: a name, two zeros, and compressed bytes."""
    name = tf.strings.regex_replace(profile, rb"(?s)\x00\C*", b"")
    packed = _part(profile, tf.strings.length(name) + 2, tf.strings.length(profile))
    # A profile as long as this unpacks to 8 MB at most.
    small = tf.strings.length(packed) <= _LARGEST_PNG_PROFILE
    is_zlib = (_number(tf.strings.join([packed, _BEHIND]), 0, 2) % 31 == 0) & _starts(packed, b"\x78")
    return tf.cond(small & is_zlib, lambda: tf.io.decode_compressed(packed, "ZLIB"), lambda: profile)


def _profile_error(profile: tf.Tensor) -> tf.Tensor:
    """Refuse a profile unless it is called sRGB and has a curve of its own, not a power of the light."""
    # The description of a profile is ASCII, or UTF-16 in newer ones. `c2` is the one that Facebook writes.
    named = tf.strings.regex_full_match(profile, rb"(?s)\C*(s\x00?R\x00?G\x00?B|desc\C*[^\w]c\x00?2)\C*")
    data = tf.strings.join([profile, _BEHIND])
    tags = tf.clip_by_value(_number(data, 128, 4), 0, 64)

    def look(index: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at = 132 + 12 * index
        return index + 1, tf.where(_part(data, at, 4) == b"rTRC", _number(data, at + 4, 4), found)

    _, curve = tf.while_loop(lambda index, _: index < tags, look, [tf.constant(0), tf.constant(0)])
    kind = _part(data, curve, 4)
    table = (kind == b"curv") & (_number(data, curve + 8, 4) > 1)
    formula = (kind == b"para") & (_number(data, curve + 8, 2) > 0)
    return _error_unless(
        (profile == b"") | (named & (table | formula)),
        "have the colour profile sRGB or none; convert it, or use tfx-vim's client, which does",
    )


def _orientation(exif: tf.Tensor) -> tf.Tensor:
    """The orientation in EXIF data, 1 to 8; 1 if there is none."""
    exif = tf.where(_starts(exif, _EXIF), _part(exif, 6, tf.strings.length(exif)), exif)
    data = tf.strings.join([exif, _BEHIND])
    little = _starts(data, b"II")

    def number(at: tf.Tensor | int, count: int) -> tf.Tensor:
        return tf.where(little, _number(data, at, count, little=True), _number(data, at, count))

    directory = tf.clip_by_value(number(4, 4), 0, tf.strings.length(data))
    entries = tf.where(number(2, 2) == 42, tf.minimum(number(directory, 2), _MOST_ENTRIES), 0)

    def look(index: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at = directory + 2 + 12 * index
        is_it = (number(at, 2) == _ORIENTATION) & (number(at + 4, 4) == 1)
        found = tf.where(is_it & (number(at + 2, 2) == 3), number(at + 8, 2), found)  # a number of 2 bytes
        return index + 1, tf.where(is_it & (number(at + 2, 2) == 4), number(at + 8, 4), found)

    _, found = tf.while_loop(lambda index, _: index < entries, look, [tf.constant(0), tf.constant(1)])
    return tf.where((found >= 1) & (found <= 8), found, 1)


def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Pixels as EXIF orientation 1 to 8 says that they are to be shown."""
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    mirrored = (orientation == 2) | (orientation == 3) | (orientation == 6) | (orientation == 7)
    upside_down = (orientation == 3) | (orientation == 4) | (orientation == 7) | (orientation == 8)
    pixels = tf.cond(mirrored, lambda: pixels[:, ::-1], lambda: pixels)
    return tf.cond(upside_down, lambda: pixels[::-1], lambda: pixels)


def _prefixed(what: str) -> tf.Tensor:
    return tf.constant(f"image must {what}")


def _error_unless(condition: tf.Tensor, what: str) -> tf.Tensor:
    return tf.where(condition, "", _prefixed(what))


def _first(*errors: tf.Tensor) -> tf.Tensor:
    """The first that is not empty."""
    return functools.reduce(lambda first, next_: tf.where(first == "", next_, first), errors)


def _size_error(height: tf.Tensor, width: tf.Tensor, max_pixels: int) -> tf.Tensor:
    size = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return _error_unless(
        (height > 0) & (width > 0) & (size <= max_pixels), f"have at most {max_pixels} pixels"
    )


def _scaled(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(pixels, tf.float32) / 255.0


def _starts(data: tf.Tensor, magic: bytes) -> tf.Tensor:
    return _part(data, 0, len(magic)) == magic


def _end(data: tf.Tensor) -> tf.Tensor:
    """The length of the bytes in front of `_BEHIND`."""
    return tf.strings.length(data) - len(_BEHIND)


def _part(data: tf.Tensor, at: tf.Tensor | int, length: tf.Tensor | int) -> tf.Tensor:
    """A part of a string, shorter or empty where the string ends before it."""
    return tf.strings.substr(data, tf.clip_by_value(at, 0, tf.strings.length(data)), tf.maximum(length, 0))


def _number(data: tf.Tensor, at: tf.Tensor | int, count: int, *, little: bool = False) -> tf.Tensor:
    """The unsigned number in `count` bytes, int32 (of 4 bytes, those above 2**31 are negative)."""
    last = tf.strings.length(data) - count
    digits = _integers(_part(data, tf.clip_by_value(at, 0, last), count))
    powers = [256**place if place < 3 else 1 << 24 for place in range(count)]
    weights = tf.constant(powers if little else powers[::-1], tf.int32)
    return tf.reduce_sum(digits * weights)


def _integers(data: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32)
