"""The component TokenTransform."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from components.token_transform import executor


class TokenTransformSpec(types.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "augmentations": ExecutionParameter(type=int),
        "min_scale": ExecutionParameter(type=float),
        "flip": ExecutionParameter(type=int),
        "seed": ExecutionParameter(type=int),
        "batch_size": ExecutionParameter(type=int),
        "num_shards": ExecutionParameter(type=int),
        "max_broken": ExecutionParameter(type=float),
    }
    INPUTS = {
        # Not "examples": TFX requires distinct keys for inputs and outputs.
        "images": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class TokenTransform(base_beam_component.BaseBeamComponent):
    """Encodes image Examples with a tokenizer: the data the image model is trained on (section 4).

    Output `examples`: the same splits, uncompressed TFRecords of tf.Example with `tokens` (int64 [N],
    raster order), `image/key`, `image/label` if there is one, and `augmentation` (0 is the centre
    crop), and the sidecars `dataset.json` and `quarantine.jsonl` (see `components.dataset`).

    Beam's flags decide where it runs and do not change the output. On Flink or Spark, in addition to
    `--runner` and the runner's own options, set `--environment_type=EXTERNAL` and
    `--environment_config=HOST:PORT`, the address of the pool that starts worker processes
    (`python -m apache_beam.runners.worker.worker_pool_main`). Dataflow needs a container image with this
    project (`--sdk_container_image`). Workers and driver must see the artifacts under the same paths.

    Counters, in the namespace `TokenTransform`: `images`, `skipped`, `model_milliseconds`, and the
    distribution `load_milliseconds`, whose count is the number of processes that loaded the model.
    """

    SPEC_CLASS = TokenTransformSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        augmentations: int = 0,
        min_scale: float = 1.0,
        flip: bool = False,
        seed: int = 0,
        batch_size: int = 64,
        num_shards: int = 1,
        max_broken: float = 0.01,
    ):
        """Build the component.

        Args:
          examples: image Examples.
          model: a tokenizer with the signature `encode_pixels`.
          augmentations: random crops of each training image, in addition to its centre crop.
          min_scale: the smallest fraction of the area that a random crop keeps, in (0, 1].
          flip: whether random crops are mirrored with probability 0.5.
          seed: determines the random crops, together with the image's key and the crop's number.
          batch_size: images per call of the tokenizer.
          num_shards: output files per split; the input files are distributed over the workers.
          max_broken: the fraction of images, 0 to 1, that may be broken before the run stops; few should be,
            because ImageExampleGen has decoded them all.
        """
        super().__init__(
            TokenTransformSpec(
                images=examples,
                model=model,
                augmentations=augmentations,
                min_scale=min_scale,
                flip=int(flip),
                seed=seed,
                batch_size=batch_size,
                num_shards=num_shards,
                max_broken=max_broken,
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
