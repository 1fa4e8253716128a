"""The component TokenTransform."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from components.token_transform import executor


class TokenTransformSpec(types.ComponentSpec):
    """What TokenTransform takes and gives."""

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
        # Not "examples": TFX wants the keys of inputs and outputs distinct.
        "images": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class TokenTransform(base_beam_component.BaseBeamComponent):
    """Encodes image Examples with a tokenizer: the data the image model is trained on (section 4).

    Output `examples`: the same splits, uncompressed TFRecords of tf.Example with `tokens` (int64 [N],
    raster order), `image/key`, `image/label` where there is one, and `augmentation` (0 is the centre
    crop), and the sidecars `dataset.json` and `quarantine.jsonl` (see `components.dataset`).

    Beam's flags decide where it runs, and not what comes out. On Flink or Spark, beside `--runner` and what
    it asks for, `--environment_type=EXTERNAL` and `--environment_config=HOST:PORT` name the pool that starts
    worker processes (`python -m apache_beam.runners.worker.worker_pool_main`); Dataflow takes an image with
    this project in it (`--sdk_container_image`). Workers and driver have to see the artifacts by the same
    paths.

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
        """Describes one encoding.

        Args:
          examples: image Examples.
          model: a tokenizer with the signature `encode_pixels`.
          augmentations: random crops of each training image, beside its centre crop.
          min_scale: the least fraction of the area that such a crop keeps, in (0, 1].
          flip: whether such a crop is mirrored half the time.
          seed: decides the crops, together with the image's key.
          batch_size: images the tokenizer sees at once.
          num_shards: files a split of the output; the files of the input are what workers share.
          max_broken: the fraction of images, 0 to 1, that may turn out broken before the run stops; hardly
            one should, for ImageExampleGen has decoded them all.
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
