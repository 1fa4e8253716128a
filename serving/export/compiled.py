"""The program that draws images on accelerators: a SavedModel of its own beside the generator's.

It has static shapes and no operation of the host, so that XLA compiles it for a TPU or a GPU: drawing and
decoding, to pixels of 8 bits. No server loads it: its operations are XLA's, which a server may not have.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serving.export import images
from serving.export.metadata import Metadata
from serving.export.sampling_params import BatchSamplingParams, SamplingParams, SamplingRequest

FOLDER = "Format-Compiled"

_SPECS = (
    tf.TensorSpec([None], tf.int32, "class_id"),
    tf.TensorSpec([None], tf.int64, "seed"),
    tf.TensorSpec([None], tf.float32, "temperature"),
    tf.TensorSpec([None], tf.int32, "top_k"),
    tf.TensorSpec([None], tf.float32, "top_p"),
    tf.TensorSpec([None], tf.float32, "first_guidance_scale"),
    tf.TensorSpec([None], tf.float32, "last_guidance_scale"),
)


def beside(generator: str) -> str:
    """The folder of the compiled program of the generator SavedModel in a folder."""
    return os.path.join(os.path.dirname(generator.rstrip("/")), FOLDER)


def export_compiled(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    *,
    sample: Callable[[SamplingRequest, bool], tf.Tensor],
    decode: Callable[[tf.Tensor], tf.Tensor],
) -> None:
    """Write the program, once without and once with guidance.

    Args:
      directory: where to.
      model: holds every variable that the functions use.
      metadata: of the generator.
      sample: (request of B images, whether they are guided) -> tokens int32 [B, N].
      decode: tokens int32 [B, N] -> pixels float32 [B, S, S, 3] in [0, 1].
    """

    def drawing(guided: bool) -> Any:
        @tf.function(autograph=False, input_signature=_SPECS)
        def draw(
            class_id: tf.Tensor,
            seed: tf.Tensor,
            temperature: tf.Tensor,
            top_k: tf.Tensor,
            top_p: tf.Tensor,
            first_guidance_scale: tf.Tensor,
            last_guidance_scale: tf.Tensor,
        ) -> dict[str, tf.Tensor]:
            params = BatchSamplingParams(temperature, top_k, top_p, first_guidance_scale, last_guidance_scale)
            zeros = tf.zeros_like(class_id)
            prompt = tf.tile(zeros[:, tf.newaxis], [1, metadata.tokens])
            tokens = sample(SamplingRequest(class_id, seed, params, prompt, zeros), guided)
            return {"tokens": tokens, "levels": images.to_levels(decode(tokens))}

        return draw

    model.draw, model.draw_guided = drawing(False), drawing(True)
    tf.saved_model.save(model, directory)


def drawn_by(loaded: Any, params: SamplingParams) -> Callable[..., dict[str, tf.Tensor]]:
    """The function of a loaded program that draws with these parameters, compiled."""
    draw = loaded.draw if params.guidance_scale == 1.0 else loaded.draw_guided
    return tf.function(lambda **inputs: draw(**inputs), jit_compile=True, autograph=False)


def inputs(params: SamplingParams, class_ids: NDArray[Any], seeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Inputs of the program for B images, as `SamplingParams.inputs`."""
    given = params.inputs(class_ids, seeds)
    last = given.pop("guidance_scale")
    first = last if params.guidance_schedule == "constant" else np.ones_like(last)
    return {**given, "first_guidance_scale": first, "last_guidance_scale": last}
