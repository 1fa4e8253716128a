"""The component GenerationEvaluator."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.evaluators import blessing
from components.evaluators.generation import executor
from components.evaluators.network_names import OWN
from components.metrics import registry


class GenerationEvaluatorSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "batch_size": component_spec.ExecutionParameter(type=int),
        "thresholds": component_spec.ExecutionParameter(type=str),
        "features": component_spec.ExecutionParameter(type=str),
        "features_version": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "reference": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "samples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "classifier": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class GenerationEvaluator(base_beam_component.BaseBeamComponent):
    """Compares samples of an image model with real images, and blesses the model for Pusher, or not."""

    SPEC_CLASS = GenerationEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        reference: BaseChannel,
        samples: BaseChannel,
        model: BaseChannel,
        classifier: BaseChannel,
        *,
        batch_size: int = 100,
        thresholds: blessing.Thresholds | None = None,
        features: str = OWN,
        features_version: str = "",
    ):
        """Build the component.

        Args:
          examples: image Examples with splits `train` and `eval`.
          reference: of ReferenceStatistics, in the same features.
          samples: of ImageSampler.
          model: the generator SavedModel that drew them, to be blessed.
          classifier: a classifier SavedModel (`classify_pixels`).
          batch_size: images in one call of the classifier.
          features: the feature network, a name of `components.evaluators.network_names`.
          features_version: the digest of its weights, so that the cache notices others.
          thresholds: metric -> {"min": bound, "max": bound, "worse_by": bound}; all must hold for a blessing.

        Raises:
          ValueError: a metric or a bound that is not valid.
        """
        super().__init__(
            spec=GenerationEvaluatorSpec(
                examples=examples,
                reference=reference,
                samples=samples,
                model=model,
                classifier=classifier,
                batch_size=batch_size,
                features=features,
                features_version=features_version,
                thresholds=blessing.thresholds_to_json(thresholds, registry.names(registry.GENERATION)),
                evaluation=Channel(type=standard_artifacts.ModelEvaluation),
                blessing=Channel(type=standard_artifacts.ModelBlessing),
            )
        )
