"""How images are sampled: one value from the configuration and the command line to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

if TYPE_CHECKING:  # the command line reads this module, and has no use for TensorFlow before it runs
    import tensorflow as tf

GuidanceSchedule = Literal["constant", "linear"]

# The generator's signature that samples with each schedule.
SIGNATURES: Mapping[GuidanceSchedule, str] = {"constant": "generate", "linear": "generate_linear"}

# Row i of a request is sampled with seed + i, and both must fit into an int64.
MAX_SEED = 2**62


class SamplingParams(pydantic.BaseModel):
    """Sampling parameters of a set of images; the defaults sample from the model itself, as the paper does.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token.
      top_k: sample from the k most likely tokens; 0 is off.
      top_p: sample from the most likely tokens that hold this much probability; 1 is off.
      guidance_scale: classifier-free guidance (Ho and Salimans 2022); 1 is off.
      guidance_schedule: `constant`, or `linear`: from 1 at the first token to `guidance_scale` at the last.
      seed: of the whole set; each image derives its own.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    guidance_scale: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    guidance_schedule: GuidanceSchedule = "constant"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0

    @property
    def signature(self) -> str:
        """The generator's signature that samples with this schedule."""
        return SIGNATURES[self.guidance_schedule]

    def inputs(self, class_ids: NDArray[Any], seeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Inputs of `generate` and `generate_linear` for B images.

        Args:
          class_ids: integers [B].
          seeds: integers [B], each image's own.
        """
        rows = len(class_ids)
        return {
            "class_id": np.asarray(class_ids, np.int32),
            "seed": np.asarray(seeds, np.int64),
            "temperature": np.full(rows, self.temperature, np.float32),
            "top_k": np.full(rows, self.top_k, np.int32),
            "top_p": np.full(rows, self.top_p, np.float32),
            "guidance_scale": np.full(rows, self.guidance_scale, np.float32),
        }


class BatchSamplingParams(NamedTuple):
    """Sampling parameters inside the graph, one value a row, [B] each.

    Attributes:
      temperature: float32, 0 takes the most likely token.
      top_k: int32, 0 is off.
      top_p: float32 in (0, 1], 1 is off.
      first_guidance_scale: float32, the scale at the first token; the others are interpolated linearly.
      last_guidance_scale: float32, the scale at the last token.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    first_guidance_scale: tf.Tensor
    last_guidance_scale: tf.Tensor


class SamplingRequest(NamedTuple):
    """What B images are drawn from, inside the graph.

    Attributes:
      class_id: int32 [B]; ignored by a model without classes.
      seed: int64 [B].
      params: [B] each.
      prompt: int32 [B, N], tokens of images to be completed.
      prompt_length: int32 [B], how many of the first prompt tokens are kept; 0 samples a whole image.
    """

    class_id: tf.Tensor
    seed: tf.Tensor
    params: BatchSamplingParams
    prompt: tf.Tensor
    prompt_length: tf.Tensor
