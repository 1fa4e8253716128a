"""Signatures: how a trained model becomes a SavedModel that the rest of the house can query.

Evaluators, TokenTransform and the server meet a model only through what is written here. Any
tokenizer with `encode` and `decode`, and any image model with `generate`, `score` and `features`,
can take the place of ViT-VQGAN and VIM. Beside each SavedModel stand the requests that warm a server up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from serving import images
from serving.metadata import Metadata
from serving.warmup import write_warmup


def read_metadata(model: Any) -> Metadata:
    """The metadata of a loaded SavedModel (`tf.saved_model.load`)."""
    return Metadata.from_json(model.signatures["metadata"]()["metadata"].numpy())


def export_tokenizer(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    *,
    encode: Callable[[tf.Tensor], tf.Tensor],
    decode: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
) -> None:
    """Writes the tokenizer SavedModel.

    Args:
      directory: where to, a path of any file system TensorFlow knows.
      model: holds every variable that `encode` and `decode` use.
      metadata: its `image_size` S and `tokens` N fix the shapes.
      encode: pixels float32 [B, S, S, 3] in [0, 1] -> tokens int32 [B, N], raster order.
      decode: tokens int32 [B, N] -> (pixels in [0, 1], mu, log_scale), float32 [B, S, S, 3] each: the
        picture, and location and ln b of its logit-laplace density; ln b is 0 where the model has a
        constant scale.
    """
    size = metadata.image_size
    image_bytes = tf.TensorSpec([None], tf.string, "image_bytes")
    pixels = tf.TensorSpec([None, size, size, 3], tf.float32, "pixels")
    tokens = tf.TensorSpec([None, metadata.tokens], tf.int32, "tokens")

    def known(tokens: tf.Tensor) -> tf.Tensor:
        allowed = f"tokens must be in [0, {metadata.codebook_size})"
        with tf.control_dependencies(
            [
                tf.debugging.assert_non_negative(tokens, allowed),
                tf.debugging.assert_less(tokens, metadata.codebook_size, allowed),
            ]
        ):
            return tf.identity(tokens)

    @tf.function(autograph=False, input_signature=[image_bytes])
    def encode_bytes(image_bytes):
        return {"tokens": encode(images.decode_batch(image_bytes, size))}

    @tf.function(autograph=False, input_signature=[pixels])
    def encode_pixels(pixels):
        return {"tokens": encode(pixels)}

    @tf.function(autograph=False, input_signature=[tokens])
    def decode_bytes(tokens):
        return {"image_bytes": images.encode_batch(decode(known(tokens))[0])}

    @tf.function(autograph=False, input_signature=[tokens])
    def decode_pixels(tokens):
        pixels, mu, log_scale = decode(known(tokens))
        return {"pixels": pixels, "mu": mu, "log_scale": log_scale}

    @tf.function(autograph=False, input_signature=[image_bytes])
    def reconstruct(image_bytes):
        pixels, _, _ = decode(encode(images.decode_batch(image_bytes, size)))
        return {"image_bytes": images.encode_batch(pixels)}

    _save(
        directory,
        model,
        metadata,
        {
            "encode": encode_bytes,
            "encode_pixels": encode_pixels,
            "decode": decode_bytes,
            "decode_pixels": decode_pixels,
            "reconstruct": reconstruct,
        },
        default="reconstruct",
    )
    picture = {"image_bytes": _grey_picture(size)}
    no_tokens = {"tokens": np.zeros([1, metadata.tokens], np.int32)}
    write_warmup(directory, {"encode": picture, "decode": no_tokens, "reconstruct": picture})


def export_generator(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    *,
    encode: Callable[[tf.Tensor], tf.Tensor],
    decode: Callable[[tf.Tensor], tf.Tensor],
    sample: Callable[..., tf.Tensor],
    log_likelihood: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    features: Callable[[tf.Tensor], tf.Tensor],
) -> None:
    """Writes the generator SavedModel: the image model and its tokenizer in one.

    `generate` holds the guidance scale constant, in `generate_linear` it rises from 1 at the first token to
    `guidance` at the last one, and `complete` keeps the first rows of an image's grid of tokens.

    Args:
      directory: where to.
      model: holds every variable that the functions use.
      metadata: `image_size` S, `tokens` N and the classes C fix the shapes and the allowed ids.
      encode: the tokenizer's, as in `export_tokenizer`.
      decode: tokens int32 [B, N] -> pixels float32 [B, S, S, 3] in [0, 1].
      sample: (class_id int32 [B], seed int64 [B], temperature, top_k, top_p, first_guidance, last_guidance
        [B], given int32 [B, N], kept int32 [B]) -> tokens int32 [B, N], the first `kept` of them those
        `given`; the guidance scale goes linearly from the first token's to the last one's; each row
        depends on its own inputs alone.
      log_likelihood: (tokens int32 [B, N], class_id int32 [B]) -> log p(tokens | class) in nats,
        float32 [B].
      features: tokens int32 [B, N] -> float32 [B, L, D], mean over tokens of every block's output,
        started without a class.
    """
    size = metadata.image_size
    classes = len(metadata.class_names)
    image_bytes = tf.TensorSpec([None], tf.string, "image_bytes")
    class_id = tf.TensorSpec([None], tf.int32, "class_id")

    def tokenize(image_bytes: tf.Tensor) -> tf.Tensor:
        return encode(images.decode_batch(image_bytes, size))

    def known(class_id: tf.Tensor) -> tf.Tensor:
        if not classes:  # an unconditional model has nothing to choose from
            return class_id
        allowed = f"class_id must be in [0, {classes})"
        with tf.control_dependencies(
            [
                tf.debugging.assert_non_negative(class_id, allowed),
                tf.debugging.assert_less(class_id, classes, allowed),
            ]
        ):
            return tf.identity(class_id)

    settings = [
        class_id,
        tf.TensorSpec([None], tf.int64, "seed"),
        tf.TensorSpec([None], tf.float32, "temperature"),
        tf.TensorSpec([None], tf.int32, "top_k"),
        tf.TensorSpec([None], tf.float32, "top_p"),
        tf.TensorSpec([None], tf.float32, "guidance"),
    ]

    # A drawn row is the same whatever it is batched with, and so is its picture: one row at a time, for the
    # products of a whole batch have last bits that depend on its size.
    def decoded(tokens: tf.Tensor) -> tf.Tensor:
        picture = tf.TensorSpec([size, size, 3], tf.float32)
        return tf.map_fn(lambda row: decode(row[tf.newaxis])[0], tokens, fn_output_signature=picture)

    def tokenized(image_bytes: tf.Tensor) -> tf.Tensor:
        row = tf.TensorSpec([metadata.tokens], tf.int32)
        return tf.map_fn(lambda one: tokenize(one[tf.newaxis])[0], image_bytes, fn_output_signature=row)

    # Traced once: the signatures below all call the same graph.
    draw = tf.function(sample, autograph=False)

    def drawn(
        class_id, seed, temperature, top_k, top_p, guidance, *, first_guidance=None, given=None, kept=None
    ):
        checks = [
            tf.debugging.assert_non_negative(temperature, "temperature must be 0 (greedy) or more"),
            tf.debugging.assert_non_negative(top_k, "top_k must be 0 (off) or more"),
            tf.debugging.assert_positive(top_p, "top_p must be in (0, 1]"),
            tf.debugging.assert_less_equal(top_p, 1.0, "top_p must be in (0, 1]"),
            tf.debugging.assert_non_negative(guidance, "guidance must be 0 or more"),
        ]
        none = tf.zeros_like(top_k)
        with tf.control_dependencies(checks):
            tokens = draw(
                known(class_id),
                seed,
                temperature,
                top_k,
                top_p,
                guidance if first_guidance is None else first_guidance,
                guidance,
                tf.tile(none[:, tf.newaxis], [1, metadata.tokens]) if given is None else given,
                none if kept is None else kept,
            )
        return {"tokens": tokens, "image_bytes": images.encode_batch(decoded(tokens))}

    @tf.function(autograph=False, input_signature=settings)
    def generate(class_id, seed, temperature, top_k, top_p, guidance):
        return drawn(class_id, seed, temperature, top_k, top_p, guidance)

    @tf.function(autograph=False, input_signature=settings)
    def generate_linear(class_id, seed, temperature, top_k, top_p, guidance):
        one = tf.ones_like(guidance)
        return drawn(class_id, seed, temperature, top_k, top_p, guidance, first_guidance=one)

    @tf.function(
        autograph=False,
        input_signature=[image_bytes, tf.TensorSpec([None], tf.int32, "kept_rows"), *settings],
    )
    def complete(image_bytes, kept_rows, class_id, seed, temperature, top_k, top_p, guidance):
        side = math.isqrt(metadata.tokens)
        allowed = f"kept_rows must be in [0, {side}]"
        checks = [
            tf.debugging.assert_non_negative(kept_rows, allowed),
            tf.debugging.assert_less_equal(kept_rows, side, allowed),
        ]
        with tf.control_dependencies(checks):
            kept = side * kept_rows
        given = tokenized(image_bytes)
        return drawn(class_id, seed, temperature, top_k, top_p, guidance, given=given, kept=kept)

    @tf.function(autograph=False, input_signature=[image_bytes, class_id])
    def score(image_bytes, class_id):
        nats = log_likelihood(tokenize(image_bytes), known(class_id))
        # bits per dim: -log2 p(tokens), spread over the 3 S^2 sub-pixels of the picture.
        return {"log_likelihood": nats, "bits_per_dim": -nats / (tf.math.log(2.0) * 3 * size * size)}

    @tf.function(autograph=False, input_signature=[image_bytes])
    def pooled_features(image_bytes):
        return {"features": features(tokenize(image_bytes))}

    _save(
        directory,
        model,
        metadata,
        {
            "generate": generate,
            "generate_linear": generate_linear,
            "complete": complete,
            "score": score,
            "features": pooled_features,
        },
        default="generate",
    )
    row: dict[str, np.ndarray] = {
        "class_id": np.zeros(1, np.int32),
        "seed": np.zeros(1, np.int64),
        "temperature": np.ones(1, np.float32),
        "top_k": np.zeros(1, np.int32),
        "top_p": np.ones(1, np.float32),
        "guidance": np.ones(1, np.float32),
    }
    picture = {"image_bytes": _grey_picture(size)}
    # One that draws for all that do: they share a graph, and a draw of a large model takes long.
    write_warmup(
        directory,
        {"generate": row, "score": {**picture, "class_id": row["class_id"]}, "features": picture},
    )


def export_classifier(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    *,
    classify: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
) -> None:
    """Writes the classifier SavedModel: signatures `classify` (image_bytes) and `classify_pixels`.

    Args:
      directory: where to.
      model: holds every variable that `classify` uses.
      metadata: `image_size` S and the classes C fix the shapes.
      classify: pixels float32 [B, S, S, 3] -> (logits float32 [B, C], features float32 [B, D]), the
        features being the pooled activations in front of the last layer.
    """
    size = metadata.image_size

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, features = classify(pixels)
        return {"logits": logits, "features": features}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def classify_bytes(image_bytes):
        return answer(images.decode_batch(image_bytes, size))

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, "pixels")]
    )
    def classify_pixels(pixels):
        return answer(pixels)

    _save(
        directory,
        model,
        metadata,
        {"classify": classify_bytes, "classify_pixels": classify_pixels},
        default="classify",
    )


def _grey_picture(size: int) -> np.ndarray:
    return images.encode_batch(tf.fill([1, size, size, 3], 0.5)).numpy()


def _save(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    signatures: Mapping[str, Any],
    *,
    default: str,
) -> None:
    @tf.function(autograph=False, input_signature=[])
    def describe():
        return {"metadata": tf.constant(metadata.to_json())}

    # Bare clients of TF Serving ask for `serving_default`.
    tf.saved_model.save(
        model,
        directory,
        signatures={**signatures, "metadata": describe, "serving_default": signatures[default]},
    )
