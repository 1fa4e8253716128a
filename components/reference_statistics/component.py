"""The component ReferenceStatistics."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.evaluators.network_names import OWN
from components.reference_statistics import executor


class ReferenceStatisticsSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "image_size": component_spec.ExecutionParameter(type=int),
        "batch_size": component_spec.ExecutionParameter(type=int),
        "features": component_spec.ExecutionParameter(type=str),
        "features_version": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "classifier": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"reference": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics)}


class ReferenceStatistics(base_beam_component.BaseBeamComponent):
    """Computes what real images are in the features of a network, once for all models compared with them."""

    SPEC_CLASS = ReferenceStatisticsSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        classifier: BaseChannel,
        *,
        image_size: int,
        batch_size: int = 64,
        features: str = OWN,
        features_version: str = "",
    ):
        """Build the component.

        Args:
          examples: image Examples with splits `train` and `eval`.
          classifier: a classifier SavedModel (`classify_pixels`).
          image_size: pixels a side.
          batch_size: images in one call of the networks.
          features: the feature network, a name of `components.evaluators.network_names`.
          features_version: the digest of its weights, so that the cache notices others.
        """
        super().__init__(
            spec=ReferenceStatisticsSpec(
                examples=examples,
                classifier=classifier,
                image_size=image_size,
                batch_size=batch_size,
                features=features,
                features_version=features_version,
                reference=Channel(type=standard_artifacts.ExampleStatistics),
            )
        )
