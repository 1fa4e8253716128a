"""Image bytes to pixels and back, inside the graph.

The one place that says how a picture becomes a model's input: training, tokenization and serving
all call it, so a served request sees exactly the pixels that the model was trained on.
"""

from __future__ import annotations

import tensorflow as tf

# The aspect ratios of the random resized crop (Szegedy et al. 2014), as everybody uses them.
ASPECT_RATIOS = (3 / 4, 4 / 3)
# A picture in a request may not have more: a few kilobytes can unfold into gigabytes.
MAX_PIXELS = 2**26
# A PNG says its size in bytes 16 to 23.
SHORTEST_HEADER = 24


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """One JPEG, PNG, GIF or BMP (scalar string) to float32 [height, width, 3] in [0, 1].

    Grey becomes three equal channels; an alpha channel is dropped; of an animation, the first frame.
    Raises `InvalidArgumentError` where the bytes are no image.
    """
    pixels = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    pixels.set_shape([None, None, 3])
    return tf.cast(pixels, tf.float32) / 255.0


def resize(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """[height, width, 3] to [size, size, 3], bicubic, without aliasing when it shrinks, kept in [0, 1]."""
    pixels = tf.image.resize(pixels, [size, size], method="bicubic", antialias=True)
    return tf.ensure_shape(tf.clip_by_value(pixels, 0.0, 1.0), [size, size, 3])


def center_crop(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """The largest centred square of [height, width, 3], resized to [size, size, 3]."""
    shape = tf.shape(pixels)
    side = tf.minimum(shape[0], shape[1])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    return resize(pixels[top : top + side, left : left + side], size)


def random_resized_crop(
    pixels: tf.Tensor, size: int, seed: tf.Tensor, *, min_scale: float, flip: bool
) -> tf.Tensor:
    """A random crop of `min_scale`..1 of the area, resized to [size, size, 3], flipped half the time.

    `seed` (int [2]) alone decides the crop, so that the same image and seed give the same pixels on
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
    """Bytes (string [B]) to centre-cropped pixels, float32 [B, size, size, 3] in [0, 1].

    For what others send: raises `InvalidArgumentError`, before anything is decoded, where a picture says that
    it has more than `MAX_PIXELS` pixels, and for a GIF, whose frames may have more than it says.
    """

    def crop(one: tf.Tensor) -> tf.Tensor:
        most = tf.constant(MAX_PIXELS, tf.int64)
        allowed = f"a picture may have {MAX_PIXELS} pixels and be no GIF"
        with tf.control_dependencies([tf.debugging.assert_less_equal(pixels_by_header(one), most, allowed)]):
            return center_crop(decode(tf.identity(one)), size)

    return tf.map_fn(
        crop,
        image_bytes,
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        # What is decoded at once lies in memory at once.
        parallel_iterations=4,
    )


def pixels_by_header(image_bytes: tf.Tensor) -> tf.Tensor:
    """How many pixels a JPEG or PNG (scalar string) says that it has, int64 scalar.

    0 where the format is another one, for a BMP is as large as its pixels; the largest number for a GIF.
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
    # Nothing that is too short for a header can be decoded either.
    known = tf.strings.length(image_bytes) >= SHORTEST_HEADER
    return tf.cond(known, lambda: tf.case(cases, lambda: unknown), lambda: unknown)


def encode_batch(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels (float32 [B, H, W, 3], clipped to [0, 1]) to PNG bytes, string [B]."""
    levels = tf.image.convert_image_dtype(tf.clip_by_value(pixels, 0.0, 1.0), tf.uint8, saturate=True)
    return tf.map_fn(tf.io.encode_png, levels, fn_output_signature=tf.TensorSpec([], tf.string))
