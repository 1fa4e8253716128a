"""The component ModelValidator: Model -> InfraBlessing, without which Pusher does not push.

TFX's own InfraValidator needs Docker or Kubernetes and does not compile for Kubeflow Pipelines
(tensorflow/tfx#5512); this one makes the same check in process, so it works on every runner.
"""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts
from tfx.types.standard_component_specs import BLESSING_KEY, MODEL_KEY

from components.model_validator import executor


class ModelValidatorSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS: dict[str, Any] = {}
    INPUTS = {MODEL_KEY: component_spec.ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {BLESSING_KEY: component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class ModelValidator(base_component.BaseComponent):
    """Blesses a model if all of its signatures answer as their contract (`answers.CONTRACT`) requires."""

    SPEC_CLASS = ModelValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, model: channel.BaseChannel) -> None:
        """Build the component for one `Model`; its output `blessing` is an `InfraBlessing`."""
        super().__init__(
            ModelValidatorSpec(
                **{MODEL_KEY: model, BLESSING_KEY: channel.Channel(type=standard_artifacts.InfraBlessing)}
            )
        )
