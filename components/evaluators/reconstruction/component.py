"""The component ReconstructionEvaluator."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.evaluators import blessing
from components.evaluators.network_names import OWN
from components.evaluators.reconstruction import executor
from components.metrics import registry


class ReconstructionEvaluatorSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "batch_size": component_spec.ExecutionParameter(type=int),
        "thresholds": component_spec.ExecutionParameter(type=str),
        "features": component_spec.ExecutionParameter(type=str),
        "features_version": component_spec.ExecutionParameter(type=str),
        "lpips": component_spec.ExecutionParameter(type=str),
        "lpips_version": component_spec.ExecutionParameter(type=str),
        "pushed": component_spec.ExecutionParameter(type=str),
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


class ReconstructionEvaluator(base_beam_component.BaseBeamComponent):
    """Measures a tokenizer on the eval split and blesses it for Pusher, or not."""

    SPEC_CLASS = ReconstructionEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        model: BaseChannel,
        classifier: BaseChannel,
        *,
        batch_size: int = 64,
        thresholds: blessing.Thresholds | None = None,
        features: str = OWN,
        features_version: str = "",
        lpips: str = "",
        lpips_version: str = "",
        pushed: str = "",
    ):
        """Build the component.

        Args:
          examples: image Examples with a split `eval`.
          model: a tokenizer SavedModel (`encode_pixels`, `decode_pixels`).
          classifier: a classifier SavedModel (`classify_pixels`).
          batch_size: images in one call of a model.
          features: the feature network, a name of `components.evaluators.network_names`.
          features_version: the digest of its weights, so that the cache notices others.
          lpips: the folder of a SavedModel for LPIPS (`components.evaluators.lpips`); not measured if empty.
          lpips_version: the digest of its weights.
          thresholds: metric -> {"min": bound, "max": bound, "worse_by": bound}; all must hold for a blessing.
          pushed: the folder that a server watches for versions of this model; it is measured too if a
            threshold compares with it.
        """
        super().__init__(
            spec=ReconstructionEvaluatorSpec(
                examples=examples,
                model=model,
                classifier=classifier,
                batch_size=batch_size,
                features=features,
                features_version=features_version,
                lpips=lpips,
                lpips_version=lpips_version,
                thresholds=blessing.thresholds_to_json(thresholds, registry.names(registry.RECONSTRUCTION)),
                pushed=pushed if blessing.compares(thresholds) else "",
                evaluation=Channel(type=standard_artifacts.ModelEvaluation),
                blessing=Channel(type=standard_artifacts.ModelBlessing),
            )
        )
