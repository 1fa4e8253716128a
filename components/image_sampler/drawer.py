"""The devices on which one process draws images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from components.sampled_set import SamplingPlan
from serving.export import compiled
from serving.export.sampling_params import SamplingParams

Tensors = dict[str, tf.Tensor]


def open_strategy() -> tf.distribute.Strategy:
    """A TPU if `TPU_NAME` is set, else all GPUs of this host if there are several, else one device."""
    if os.environ.get("TPU_NAME"):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    return tf.distribute.get_strategy()


class Drawer:
    """Draws images of a plan on the devices of this process, which share each batch.

    Args:
      model: the folder of the generator's SavedModel.
      program: that of the compiled one beside it (`serving.export.compiled`), or "".
      plan: which images there are.
      batch_size: images of a call, on all devices together.
      strategy: of `tf.distribute`.

    Raises:
      ValueError: the batch cannot be shared evenly, or a TPU has no compiled program.
    """

    def __init__(
        self,
        model: str,
        program: str,
        plan: SamplingPlan,
        batch_size: int,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._strategy = strategy or open_strategy()
        self._plan = plan
        self._rows, rest = divmod(batch_size, self._strategy.num_replicas_in_sync)
        if rest or not self._rows:
            raise ValueError(
                "evaluation.generation.batch_size must be a multiple of the "
                f"{self._strategy.num_replicas_in_sync} devices that draw, got {batch_size}"
            )
        if isinstance(self._strategy, tf.distribute.TPUStrategy) and not program:
            raise ValueError("stage2.sampler.compiled must be true to draw on a TPU, got false")
        params = plan.params
        with self._strategy.scope():
            self._loaded = tf.saved_model.load(program or model)
        if program:
            self._draw = self._distributed(compiled.drawn_by(self._loaded, params))
        elif self._strategy.num_replicas_in_sync > 1:
            self._draw = self._distributed(self._loaded.signatures[params.signature])
        else:
            # As it is: within another function it would be optimized once more, which takes seconds.
            self._draw = self._loaded.signatures[params.signature]
        self._inputs = compiled.inputs if program else SamplingParams.inputs

    def __call__(self, numbers: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
        """Draw the images of these numbers, at most a batch of them.

        Returns:
          Their tokens, int32 [B, N], and their PNG files.
        """
        # Always a whole batch, cut afterwards: a program may be compiled for each batch size.
        whole = np.resize(numbers, self._rows * self._strategy.num_replicas_in_sync)
        plan = self._plan
        inputs = self._inputs(plan.params, plan.class_ids(whole), plan.row_seeds(whole))
        drawn = self._draw(**{name: tf.constant(values) for name, values in inputs.items()})
        tokens = drawn["tokens"].numpy()[: len(numbers)]
        if "image_bytes" in drawn:
            return tokens, drawn["image_bytes"].numpy()[: len(numbers)].tolist()
        levels = drawn["levels"].numpy()[: len(numbers)]
        return tokens, [tf.io.encode_png(image).numpy() for image in levels]

    def _distributed(self, draw: Callable[..., Tensors]) -> Callable[..., Tensors]:
        """`draw` of whole batches, of which each replica gets its rows."""
        strategy, rows = self._strategy, self._rows
        together = tf.function(
            lambda given: strategy.run(draw, kwargs=given), autograph=False, reduce_retracing=True
        )

        def of_replica(values: tf.Tensor, context: tf.distribute.ValueContext) -> tf.Tensor:
            first = rows * context.replica_id_in_sync_group
            return values[first : first + rows]

        def joined(value: Any) -> tf.Tensor:
            return tf.concat(strategy.experimental_local_results(value), axis=0)

        def draw_all(**inputs: tf.Tensor) -> Tensors:
            given: Mapping[str, Any] = {
                name: strategy.experimental_distribute_values_from_function(
                    lambda context, values=values: of_replica(values, context)
                )
                for name, values in inputs.items()
            }
            return {name: joined(value) for name, value in together(given).items()}

        return draw_all
