"""Image bytes to pixels and back, inside the graph.

The only definition of how an image becomes a model's input. Training, tokenization and serving all use
it, so a served request sees exactly the pixels that the model was trained on.
"""

from __future__ import annotations

import tensorflow as tf

# The usual aspect ratios of the random resized crop (Szegedy et al. 2014).
ASPECT_RATIOS = (3 / 4, 4 / 3)
# Limit of an image in a request: a few kilobytes can decode to gigabytes.
MAX_PIXELS = 2**26
# A PNG holds its width and height in bytes 16 to 23.
SHORTEST_HEADER = 24


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG, PNG, GIF or BMP (scalar string) to float32 [height, width, 3] in [0, 1].

    Grey becomes three equal channels, an alpha channel is dropped, and an animation is its first frame.
    Raises `InvalidArgumentError` if the bytes are not an image.
    """
    pixels = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    pixels.set_shape([None, None, 3])
    return tf.cast(pixels, tf.float32) / 255.0


def resize(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Resize [height, width, 3] to [size, size, 3]: bicubic, antialiased, clipped to [0, 1]."""
    pixels = tf.image.resize(pixels, [size, size], method="bicubic", antialias=True)
    return tf.ensure_shape(tf.clip_by_value(pixels, 0.0, 1.0), [size, size, 3])


def center_crop(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Crop the largest centred square of [height, width, 3] and resize it to [size, size, 3]."""
    shape = tf.shape(pixels)
    side = tf.minimum(shape[0], shape[1])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    return resize(pixels[top : top + side, left : left + side], size)


def random_resized_crop(
    pixels: tf.Tensor, size: int, seed: tf.Tensor, *, min_scale: float, flip: bool
) -> tf.Tensor:
    """Crop a random `min_scale`..1 of the area, resize it to [size, size, 3], and flip half of the images.

    Crop and flip depend on `seed` (int [2]) alone, so the same image and seed yield the same pixels on
    any worker. With `min_scale` 1.0 and no flip it is the centre crop.
    """
    if min_scale < 1.0:
        shape = tf.shape(pixels)
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            bounding_boxes=tf.zeros([1, 0, 4]),
            seed=seed,
            min_object_covered=0.0,
            aspect_ratio_range=ASPECT_RATIOS,
            area_range=(min_scale, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        pixels = resize(tf.slice(pixels, begin, extent), size)
    else:
        pixels = center_crop(pixels, size)
    if flip:
        pixels = tf.image.stateless_random_flip_left_right(pixels, seed + 1)
    return pixels


def decode_batch(image_bytes: tf.Tensor, size: int) -> tf.Tensor:
    """Decode and centre-crop images (string [B]) to float32 [B, size, size, 3] in [0, 1].

    For untrusted input: raises `InvalidArgumentError` before decoding if a header states more than
    `MAX_PIXELS` pixels, and for a GIF, whose frames may be larger than its header states.
    """

    def crop(one: tf.Tensor) -> tf.Tensor:
        most = tf.constant(MAX_PIXELS, tf.int64)
        allowed = f"image must have at most {MAX_PIXELS} pixels and not be a GIF"
        with tf.control_dependencies([tf.debugging.assert_less_equal(pixels_by_header(one), most, allowed)]):
            return center_crop(decode(tf.identity(one)), size)

    return tf.map_fn(
        crop,
        image_bytes,
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        # Images decoded in parallel are in memory together.
        parallel_iterations=4,
    )


def pixels_by_header(image_bytes: tf.Tensor) -> tf.Tensor:
    """Return the number of pixels in the header of a JPEG or PNG (scalar string), int64 scalar.

    0 for other formats, as a BMP is as large as its pixels; the largest int64 for a GIF.
    """

    def jpeg() -> tf.Tensor:
        return tf.reduce_prod(tf.cast(tf.image.extract_jpeg_shape(image_bytes)[:2], tf.int64))

    def png() -> tf.Tensor:
        sides = tf.io.decode_raw(tf.strings.substr(image_bytes, 16, 8), tf.int32, little_endian=False)
        return tf.reduce_prod(tf.cast(tf.ensure_shape(sides, [2]), tf.int64))

    def gif() -> tf.Tensor:
        return tf.constant(tf.int64.max)

    def starts(magic: bytes) -> tf.Tensor:
        return tf.strings.substr(image_bytes, 0, len(magic)) == magic

    unknown = tf.constant(0, tf.int64)
    cases = [(starts(b"\xff\xd8\xff"), jpeg), (starts(b"\x89PNG"), png), (starts(b"GIF"), gif)]
    # Bytes too short for a header cannot be decoded either.
    known = tf.strings.length(image_bytes) >= SHORTEST_HEADER
    return tf.cond(known, lambda: tf.case(cases, lambda: unknown), lambda: unknown)


def encode_batch(pixels: tf.Tensor) -> tf.Tensor:
    """Encode pixels (float32 [B, H, W, 3], clipped to [0, 1]) as PNG bytes, string [B]."""
    levels = tf.image.convert_image_dtype(tf.clip_by_value(pixels, 0.0, 1.0), tf.uint8, saturate=True)
    return tf.map_fn(tf.io.encode_png, levels, fn_output_signature=tf.TensorSpec([], tf.string))
