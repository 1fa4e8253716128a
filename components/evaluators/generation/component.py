"""The component GenerationEvaluator."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.evaluators import blessing
from components.evaluators.generation import executor
from components.metrics import registry
from serving.export.sampling_params import SamplingParams


class GenerationEvaluatorSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "samples": component_spec.ExecutionParameter(type=int),
        "batch_size": component_spec.ExecutionParameter(type=int),
        "acceptance": component_spec.ExecutionParameter(type=float),
        "sampling": component_spec.ExecutionParameter(type=str),
        "thresholds": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "classifier": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class GenerationEvaluator(base_beam_component.BaseBeamComponent):
    """Samples from an image model, compares with real images, and blesses the model for Pusher, or not."""

    SPEC_CLASS = GenerationEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        model: BaseChannel,
        classifier: BaseChannel,
        *,
        samples: int = 1000,
        batch_size: int = 100,
        acceptance: float = 1.0,
        sampling: SamplingParams = SamplingParams(),
        thresholds: blessing.Thresholds | None = None,
    ):
        """Build the component.

        Args:
          examples: image Examples with splits `train` and `eval`.
          model: a generator SavedModel (`generate`, and `generate_linear` for that guidance schedule).
          classifier: a classifier SavedModel (`classify_pixels`).
          samples: how many images are scored, the classes in turn.
          batch_size: images in one call of a model.
          acceptance: in (0, 1]; of each class 1 / acceptance times as many are sampled as are scored, and
            those with the highest probability of that class are kept. 1.0 keeps all.
          sampling: temperature, filters, guidance, and the seed of the whole set.
          thresholds: metric -> {"min": bound, "max": bound}; all must hold for a blessing.

        Raises:
          ValueError: an acceptance, a metric or a bound that is not valid.
        """
        if not 0 < acceptance <= 1:
            raise ValueError(f"acceptance must be in (0, 1], got {acceptance}")
        super().__init__(
            spec=GenerationEvaluatorSpec(
                examples=examples,
                model=model,
                classifier=classifier,
                samples=samples,
                batch_size=batch_size,
                acceptance=acceptance,
                sampling=sampling.model_dump_json(),
                thresholds=blessing.thresholds_to_json(thresholds, registry.names(registry.GENERATION)),
                evaluation=Channel(type=standard_artifacts.ModelEvaluation),
                blessing=Channel(type=standard_artifacts.ModelBlessing),
            )
        )
