"""The generator SavedModel: the image model and its tokenizer in one.

| signature | what |
|---|---|
| `generate` | samples images at a constant guidance scale |
| `generate_linear` | the same; the scale rises from 1 at the first token to `guidance_scale` at the last |
| `complete` | keeps the first rows of an image's token grid and samples the rest |
| `score` | log-likelihood of images |
| `features` | every block's mean output, for a linear probe |
| `serving_default` | `score` and `features` of tf.Examples |

TF Serving requires every input of a signature in every request, so a schedule as one more input of
`generate` would break its clients. The three signatures that sample call one graph, which the SavedModel
holds once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from serving.export import images, request_images
from serving.export.metadata import CHANNELS, Metadata
from serving.export.sampling_params import BatchSamplingParams, SamplingParams, SamplingRequest
from serving.export.signatures import (
    CLASS_ID,
    EXAMPLES,
    IMAGE_BYTES,
    by_row,
    checked_ids,
    grey_example,
    grey_image,
    row_check,
    save,
)
from serving.export.warmup import write_warmup

Outputs = dict[str, tf.Tensor]

# Inputs of every signature that samples, in the order of `generate`.
SAMPLING_SPECS = (
    CLASS_ID,
    tf.TensorSpec([None], tf.int64, "seed"),
    tf.TensorSpec([None], tf.float32, "temperature"),
    tf.TensorSpec([None], tf.int32, "top_k"),
    tf.TensorSpec([None], tf.float32, "top_p"),
    tf.TensorSpec([None], tf.float32, "guidance_scale"),
)


@dataclass(frozen=True)
class Generator:
    """The functions of an image model and its tokenizer.

    Attributes:
      metadata: `image_size` S, `tokens` N and the classes C fix the shapes and the range of class ids.
      encode: pixels float32 [B, S, S, 3] in [0, 1] -> tokens int32 [B, N], raster order.
      decode: tokens int32 [B, N] -> pixels float32 [B, S, S, 3] in [0, 1].
      sample: a request of B images -> tokens int32 [B, N]; each row depends on its own inputs alone.
      log_likelihood: (tokens int32 [B, N], class_id int32 [B]) -> log p(tokens | class) in nats, float32 [B].
      features: tokens int32 [B, N] -> float32 [B, L, D], the mean over tokens of every block's output,
        started without a class.
    """

    metadata: Metadata
    encode: Callable[[tf.Tensor], tf.Tensor]
    decode: Callable[[tf.Tensor], tf.Tensor]
    sample: Callable[[SamplingRequest], tf.Tensor]
    log_likelihood: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    features: Callable[[tf.Tensor], tf.Tensor]

    def read(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Encoded images (string [B]) to pixels and errors, as `request_images.decode_batch`."""
        metadata = self.metadata
        return request_images.decode_batch(
            image_bytes, metadata.image_size, metadata.ground, metadata.max_image_pixels
        )

    def encode_by_row(self, pixels: tf.Tensor) -> tf.Tensor:
        """`encode`, one image at a time.

        A sampled row must be the same in any batch, and the products of a whole batch have last bits that
        depend on its size.
        """
        row = tf.TensorSpec([self.metadata.tokens], tf.int32)
        return tf.map_fn(lambda one: self.encode(one[tf.newaxis])[0], pixels, fn_output_signature=row)

    def decode_by_row(self, tokens: tf.Tensor) -> tf.Tensor:
        """Tokens int32 [B, N] to pixels float32 [B, S, S, 3], one image at a time for the same reason."""
        size = self.metadata.image_size
        image = tf.TensorSpec([size, size, CHANNELS], tf.float32)
        return tf.map_fn(lambda row: self.decode(row[tf.newaxis])[0], tokens, fn_output_signature=image)

    def checked_class(self, class_id: tf.Tensor) -> tf.Tensor:
        """The class ids, checked where the model has classes; a model without classes ignores them."""
        classes = len(self.metadata.class_names)
        return checked_ids("class_id", class_id, classes) if classes else class_id


def export_generator(directory: str, model: tf.Module, generator: Generator) -> None:
    """Write the generator SavedModel and its warm-up requests.

    Args:
      directory: where to, a path of any file system that TensorFlow knows.
      model: holds every variable that the generator's functions use.
      generator: the functions behind the signatures.
    """
    sample = _sampler(generator)
    signatures = {
        "generate": _generate(sample),
        "generate_linear": _generate_linear(sample),
        "complete": _complete(generator, sample),
        "score": _score(generator),
        "features": _features(generator),
        "serving_default": _of_examples(generator),
    }
    save(directory, model, generator.metadata, signatures)
    row = SamplingParams().inputs(np.zeros(1), np.zeros(1))
    image = grey_image(generator.metadata)
    # Each by itself, though they share a graph: TensorFlow specializes it for every caller.
    write_warmup(
        directory,
        {
            "generate": row,
            "generate_linear": row,
            "complete": {**image, "kept_rows": np.zeros(1, np.int32), **row},
            "score": {**image, "class_id": row["class_id"]},
            "features": image,
            "serving_default": grey_example(generator.metadata),
        },
    )


class _Sampler(Protocol):
    def __call__(
        self,
        class_id: tf.Tensor,
        seed: tf.Tensor,
        params: BatchSamplingParams,
        prompt: tf.Tensor | None = None,
        prompt_length: tf.Tensor | None = None,
    ) -> Outputs: ...


def _sampler(generator: Generator) -> _Sampler:
    """The graph behind all signatures that sample, with its input checks."""
    traced_once = tf.function(lambda *request: generator.sample(SamplingRequest(*request)), autograph=False)

    def sample(
        class_id: tf.Tensor,
        seed: tf.Tensor,
        params: BatchSamplingParams,
        prompt: tf.Tensor | None = None,
        prompt_length: tf.Tensor | None = None,
    ) -> Outputs:
        zeros = tf.zeros_like(params.top_k)
        if prompt is None:
            prompt = tf.tile(zeros[:, tf.newaxis], [1, generator.metadata.tokens])
        with tf.control_dependencies(_checks(params)):
            request = SamplingRequest(
                generator.checked_class(class_id),
                seed,
                params,
                prompt,
                zeros if prompt_length is None else prompt_length,
            )
            tokens = traced_once(*request)
        return {"tokens": tokens, "image_bytes": images.encode_batch(generator.decode_by_row(tokens))}

    return sample


def _checks(params: BatchSamplingParams) -> list[tf.Operation]:
    return [
        row_check(params.temperature >= 0.0, "temperature must be 0 (greedy) or more"),
        row_check(params.top_k >= 0, "top_k must be 0 (off) or more"),
        row_check((params.top_p > 0.0) & (params.top_p <= 1.0), "top_p must be in (0, 1]"),
        row_check(params.last_guidance_scale >= 0.0, "guidance_scale must be 0 or more"),
        # An infinite scale takes infinity from infinity, and every token would be 0.
        row_check(params.last_guidance_scale < math.inf, "guidance_scale must be finite"),
        row_check(params.temperature < math.inf, "temperature must be finite"),
    ]


def _generate(sample: _Sampler) -> Any:
    @tf.function(autograph=False, input_signature=SAMPLING_SPECS)
    def generate(
        class_id: tf.Tensor,
        seed: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        guidance_scale: tf.Tensor,
    ) -> Outputs:
        params = BatchSamplingParams(temperature, top_k, top_p, guidance_scale, guidance_scale)
        return sample(class_id, seed, params)

    return generate


def _generate_linear(sample: _Sampler) -> Any:
    @tf.function(autograph=False, input_signature=SAMPLING_SPECS)
    def generate_linear(
        class_id: tf.Tensor,
        seed: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        guidance_scale: tf.Tensor,
    ) -> Outputs:
        off = tf.ones_like(guidance_scale)
        return sample(class_id, seed, BatchSamplingParams(temperature, top_k, top_p, off, guidance_scale))

    return generate_linear


def _complete(generator: Generator, sample: _Sampler) -> Any:
    side = math.isqrt(generator.metadata.tokens)
    kept_rows_spec = tf.TensorSpec([None], tf.int32, "kept_rows")

    @tf.function(autograph=False, input_signature=[IMAGE_BYTES, kept_rows_spec, *SAMPLING_SPECS])
    def complete(
        image_bytes: tf.Tensor,
        kept_rows: tf.Tensor,
        class_id: tf.Tensor,
        seed: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        guidance_scale: tf.Tensor,
    ) -> Outputs:
        inside = row_check((kept_rows >= 0) & (kept_rows <= side), f"kept_rows must be in [0, {side}]")
        with tf.control_dependencies([inside]):
            prompt_length = side * kept_rows
        pixels, errors = generator.read(image_bytes)
        params = BatchSamplingParams(temperature, top_k, top_p, guidance_scale, guidance_scale)
        return by_row(errors, sample(class_id, seed, params, generator.encode_by_row(pixels), prompt_length))

    return complete


def _scores(generator: Generator, tokens: tf.Tensor, class_id: tf.Tensor) -> Outputs:
    nats = generator.log_likelihood(tokens, class_id)
    bits = -nats / (tf.math.log(2.0) * generator.metadata.tokens)
    return {"log_likelihood": nats, "bits_per_token": bits}


def _score(generator: Generator) -> Any:
    @tf.function(autograph=False, input_signature=[IMAGE_BYTES, CLASS_ID])
    def score(image_bytes: tf.Tensor, class_id: tf.Tensor) -> Outputs:
        pixels, errors = generator.read(image_bytes)
        tokens = generator.encode(pixels)
        return by_row(errors, _scores(generator, tokens, generator.checked_class(class_id)))

    return score


def _features(generator: Generator) -> Any:
    @tf.function(autograph=False, input_signature=[IMAGE_BYTES])
    def features(image_bytes: tf.Tensor) -> Outputs:
        pixels, errors = generator.read(image_bytes)
        return by_row(errors, {"features": generator.features(generator.encode(pixels))})

    return features


def _of_examples(generator: Generator) -> Any:
    metadata = generator.metadata
    classes = len(metadata.class_names)

    @tf.function(autograph=False, input_signature=[EXAMPLES])
    def of_examples(examples: tf.Tensor) -> Outputs:
        pixels, errors, labels = request_images.decode_examples(
            examples, metadata.image_size, metadata.ground, metadata.max_image_pixels
        )
        if classes:
            known = (labels >= 0) & (labels < classes)
            errors = tf.where((errors == "") & ~known, f"image/label must be in [0, {classes})", errors)
            labels = tf.where(known, labels, 0)
        tokens = generator.encode(pixels)
        outputs = {
            **_scores(generator, tokens, tf.cast(labels, tf.int32)),
            "features": generator.features(tokens),
        }
        return by_row(errors, outputs)

    return of_examples
