"""The component ModelValidator: Model -> InfraBlessing, which Pusher obeys.

TFX's own InfraValidator needs Docker or Kubernetes and does not compile for Kubeflow Pipelines
(tensorflow/tfx#5512); this one asks the same question in process, so it runs on every runner.
"""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts
from tfx.types.standard_component_specs import BLESSING_KEY, MODEL_KEY

from components.model_validator import executor


class ModelValidatorSpec(component_spec.ComponentSpec):
    """What flows in and out of ModelValidator."""

    PARAMETERS: dict[str, Any] = {}
    INPUTS = {MODEL_KEY: component_spec.ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {BLESSING_KEY: component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class ModelValidator(base_component.BaseComponent):
    """Blesses a model whose every signature answers as the contract of `serving.export.signatures` says."""

    SPEC_CLASS = ModelValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, model: channel.BaseChannel) -> None:
        """Takes the channel of one `Model`; gives `outputs["blessing"]`, an `InfraBlessing`."""
        super().__init__(
            ModelValidatorSpec(
                **{MODEL_KEY: model, BLESSING_KEY: channel.Channel(type=standard_artifacts.InfraBlessing)}
            )
        )
