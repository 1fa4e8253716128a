"""Build ModelValidator as a node of the graph."""

from tfx.types import channel, standard_artifacts

from components.model_validator import executor
from components.model_validator.component import ModelValidator


def test_model_validator_takes_a_model_and_outputs_an_infra_blessing():
    model = channel.Channel(type=standard_artifacts.Model)
    validator = ModelValidator(model=model).with_id("ModelValidator-tokenizer")
    assert validator.inputs["model"] is model
    assert validator.outputs["blessing"].type is standard_artifacts.InfraBlessing
    assert validator.exec_properties == {}
    assert validator.executor_spec.executor_class is executor.Executor
