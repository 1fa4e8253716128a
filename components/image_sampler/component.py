"""The component ImageSampler."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.image_sampler import executor
from serving.export.sampling_params import SamplingParams


class ImageSamplerSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "samples": component_spec.ExecutionParameter(type=int),
        "acceptance": component_spec.ExecutionParameter(type=float),
        "sampling": component_spec.ExecutionParameter(type=str),
        "shard_size": component_spec.ExecutionParameter(type=int),
        "batch_size": component_spec.ExecutionParameter(type=int),
        "drawn": component_spec.ExecutionParameter(type=str),
        "pushed": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {"examples": component_spec.ChannelParameter(type=standard_artifacts.Examples)}


class ImageSampler(base_beam_component.BaseBeamComponent):
    """Draws a set of images from an image model, which GenerationEvaluator scores and anyone may train on.

    Output `examples`: Examples with the split `samples`, and `pushed` for a comparison with the last pushed
    model, and the sidecar `dataset.json` (`components.sampled_set`).

    An image follows from its number alone, so any number of workers draws the same set. Beam distributes
    shards over workers; within a worker, `tf.distribute` shares each batch among its devices. A shard is
    whole or absent, and a run that follows a killed one draws those that are missing.
    """

    SPEC_CLASS = ImageSamplerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        model: BaseChannel,
        *,
        drawn: str,
        samples: int = 1000,
        acceptance: float = 1.0,
        sampling: SamplingParams = SamplingParams(),
        shard_size: int = 1000,
        batch_size: int = 100,
        pushed: str = "",
    ):
        """Build the component.

        Args:
          model: a generator SavedModel (`generate`, and `generate_linear` for that guidance schedule).
          drawn: a folder for shards that outlives an execution, the run's own.
          samples: how many images are wanted, the classes in turn.
          acceptance: in (0, 1]; of each class 1 / acceptance times as many are drawn, of which
            GenerationEvaluator keeps those with the highest probability of that class. 1.0 draws no more.
          sampling: temperature, filters, guidance, and the seed of the whole set.
          shard_size: images of a file, of which a killed run loses one.
          batch_size: images in one call of the model, on all devices of a worker together.

          pushed: the folder that a server watches for versions of this model, to draw the same set from the
            newest of them too; "" to draw none.

        Raises:
          ValueError: an acceptance that is not valid.
        """
        if not 0 < acceptance <= 1:
            raise ValueError(f"acceptance must be in (0, 1], got {acceptance}")
        super().__init__(
            spec=ImageSamplerSpec(
                model=model,
                samples=samples,
                acceptance=acceptance,
                sampling=sampling.model_dump_json(),
                shard_size=shard_size,
                batch_size=batch_size,
                drawn=drawn,
                pushed=pushed,
                examples=Channel(type=standard_artifacts.Examples),
            )
        )
