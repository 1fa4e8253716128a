"""Pixels to a model's input and back, inside the graph.

The only definition of how an image becomes a model's input. Training, tokenization and serving all use
it, so a served request sees exactly the pixels that the model was trained on.
"""

from __future__ import annotations

import tensorflow as tf


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG or PNG of an Examples artifact (scalar string) to float32 [height, width, 3] in [0, 1].

    For images that `serving.export.standard_image` has made; those of requests are decoded by
    `serving.export.request_images`. Raises `InvalidArgumentError` if the bytes are not an image.
    """
    is_png = tf.strings.substr(image_bytes, 0, 4) == b"\x89PNG"
    pixels = tf.cond(
        is_png, lambda: tf.image.decode_png(image_bytes, channels=3), lambda: decode_jpeg(image_bytes)
    )
    return tf.cast(pixels, tf.float32) / 255.0


def decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG (scalar string) to uint8 [height, width, 3].

    As accurately as Pillow and browsers do: TensorFlow's default differs from them by up to nine levels.
    """
    return tf.image.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")


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
    """Crop a random square, resize it to [size, size, 3], and flip half of the images.

    The square has `min_scale`..1 of the area of the largest one, evenly distributed, and lies anywhere in the
    image. It keeps the aspect, since all that is scored or served is a centre crop: the usual crop of aspect
    3/4 to 4/3 squeezes every photograph of 4:3 at 80 % of its area.

    Crop and flip depend on `seed` (int [2]) alone, so the same image and seed yield the same pixels on any
    worker. With `min_scale` 1.0 and no flip it is the centre crop.
    """
    if min_scale < 1.0:
        scale, down, across = tf.unstack(tf.random.stateless_uniform([3], seed))
        height, width = tf.unstack(tf.cast(tf.shape(pixels)[:2], tf.float32))
        side = tf.sqrt(min_scale + (1.0 - min_scale) * scale) * tf.minimum(height, width)
        pixels = _crop(pixels, size, top=down * (height - side), left=across * (width - side), side=side)
    else:
        pixels = center_crop(pixels, size)
    if flip:
        pixels = tf.image.stateless_random_flip_left_right(pixels, seed + 1)
    return pixels


def _crop(pixels: tf.Tensor, size: int, *, top: tf.Tensor, left: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Resize a square of [height, width, 3] whose place and side are no whole pixels, as `resize` does.

    Of an image of 8 x 8 pixels, whole pixels would allow 5 squares of 80 % of its area or more.
    """
    zoom = size / side
    cropped = tf.raw_ops.ScaleAndTranslate(  # the operation behind tf.image.resize
        images=pixels[tf.newaxis],
        size=[size, size],
        scale=tf.stack([zoom, zoom]),
        translation=-zoom * tf.stack([top, left]),
        kernel_type="keyscubic",
        antialias=True,
    )
    return tf.ensure_shape(tf.clip_by_value(cropped[0], 0.0, 1.0), [size, size, 3])


def decode_batch(image_bytes: tf.Tensor, size: int) -> tf.Tensor:
    """Decode images as `decode` does (string [B]) and crop them: float32 [B, size, size, 3] in [0, 1]."""
    return tf.map_fn(
        lambda one: center_crop(decode(one), size),
        image_bytes,
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        parallel_iterations=4,
    )


def to_levels(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels (float32, clipped to [0, 1]) to the nearest of 256 levels, uint8 of the same shape."""
    return tf.image.convert_image_dtype(tf.clip_by_value(pixels, 0.0, 1.0), tf.uint8, saturate=True)


def encode_batch(pixels: tf.Tensor) -> tf.Tensor:
    """Encode pixels (float32 [B, H, W, 3], clipped to [0, 1]) as PNG bytes, string [B]."""
    return tf.map_fn(tf.io.encode_png, to_levels(pixels), fn_output_signature=tf.TensorSpec([], tf.string))
