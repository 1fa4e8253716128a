"""Tiny models with the project's signatures, whose answers can be computed by hand.

Components and servers know a model only by its signatures. These replace ViT-VQGAN, VIM and the ResNet in
tests of the components.
"""

from __future__ import annotations

import tensorflow as tf

from serving.export.classifier import export_classifier
from serving.export.generator import Generator, export_generator
from serving.export.metadata import Metadata
from serving.export.sampling_params import SamplingRequest
from serving.export.tokenizer import export_tokenizer

SIZE = 8
PATCH = 4
TOKENS = (SIZE // PATCH) ** 2
CODES = 16
CLASSES = ("dark", "grey", "bright")
VERSIONS = {"tensorflow": tf.__version__}


def metadata(kind: str, class_names: tuple[str, ...] = CLASSES) -> Metadata:
    return Metadata(kind, "stand-in", SIZE, TOKENS, CODES, class_names, VERSIONS)


def encode(pixels: tf.Tensor) -> tf.Tensor:
    """Encode each patch as its mean brightness in 16 levels."""
    patches = tf.nn.avg_pool2d(tf.reduce_mean(pixels, axis=-1, keepdims=True), PATCH, PATCH, "VALID")
    return tf.cast(tf.reshape(tf.round(patches * (CODES - 1)), [-1, TOKENS]), tf.int32)


def paint(tokens: tf.Tensor) -> tf.Tensor:
    """Paint each token as a flat grey patch."""
    side = SIZE // PATCH
    grey = tf.reshape(tf.cast(tokens, tf.float32) / (CODES - 1), [-1, side, side, 1])
    return tf.tile(tf.repeat(tf.repeat(grey, PATCH, axis=1), PATCH, axis=2), [1, 1, 1, 3])


def codes(tokens: tf.Tensor) -> tf.Tensor:
    """The code of a token is its brightness, but the last two share a place."""
    return tf.cast(tf.minimum(tokens, CODES - 2), tf.float32)[..., tf.newaxis]


def decode(tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decode to pixels and their density: its location is half a logit too bright, its scale b is 1."""
    pixels = paint(tokens)
    x = 0.8 * pixels + 0.1
    return pixels, tf.math.log(x / (1.0 - x)) + 0.5, tf.zeros_like(pixels)


def sample(request: SamplingRequest) -> tf.Tensor:
    """Sample tokens at the class's brightness (0, 7 or 14) plus 0 or 1; greedy sampling adds nothing."""

    def row(inputs):
        label, row_seed, heat = inputs
        jitter = tf.random.stateless_uniform(
            [TOKENS], tf.stack([row_seed, 0]), minval=0, maxval=2, dtype=tf.int32
        )
        return 7 * label + jitter * tf.cast(heat > 0, tf.int32)

    drawn = tf.map_fn(
        row,
        (request.class_id, request.seed, request.params.temperature),
        fn_output_signature=tf.TensorSpec([TOKENS], tf.int32),
    )
    return tf.where(tf.range(TOKENS) < request.prompt_length[:, tf.newaxis], request.prompt, drawn)


def log_likelihood(tokens: tf.Tensor, class_id: tf.Tensor) -> tf.Tensor:
    """Log-likelihood of a uniform distribution over the codes: -N ln K nats."""
    del class_id
    return -TOKENS * tf.math.log(float(CODES)) * tf.ones_like(tokens[:, 0], tf.float32)


def features(tokens: tf.Tensor) -> tf.Tensor:
    """Features of two blocks of width 4: zeros, and the scaled tokens."""
    scaled = tf.cast(tokens, tf.float32) / (CODES - 1)
    return tf.stack([tf.zeros_like(scaled), scaled], axis=1)


def classify(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Classify by the nearest brightness of 0, 7/15 and 14/15; features are the means of the quarters."""
    quarters = tf.nn.avg_pool2d(tf.reduce_mean(pixels, axis=-1, keepdims=True), PATCH, PATCH, "VALID")
    quarters = tf.reshape(quarters, [-1, TOKENS])
    mean = tf.reduce_mean(quarters, axis=-1, keepdims=True)
    return -50.0 * tf.abs(mean - tf.constant([[0.0, 7 / 15, 14 / 15]])), quarters


def write_tokenizer(directory: str, class_names: tuple[str, ...] = CLASSES) -> None:
    export_tokenizer(
        directory,
        tf.Module(),
        metadata("tokenizer", class_names),
        encode=encode,
        decode=decode,
        codes=codes,
    )


def write_generator(
    directory: str, class_names: tuple[str, ...] = CLASSES, sample=sample, decode=paint
) -> None:
    generator = Generator(
        metadata("generator", class_names),
        encode=encode,
        decode=decode,
        sample=sample,
        log_likelihood=log_likelihood,
        features=features,
    )
    export_generator(directory, tf.Module(), generator)


def write_classifier(directory: str, class_names: tuple[str, ...] = CLASSES) -> None:
    export_classifier(directory, tf.Module(), metadata("classifier", class_names), classify=classify)
