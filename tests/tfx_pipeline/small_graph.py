"""Build a graph of three components: one that writes a model, one that validates and one that pushes it."""

from tfx import v1 as tfx
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import channel, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.model_validator.component import ModelValidator
from components.pusher.component import Pusher
from tests import stand_ins


class WriterExecutor(base_executor.BaseExecutor):
    """Executor that writes the stand-in tokenizer with two classes."""

    def Do(self, input_dict, output_dict, exec_properties):
        (model,) = output_dict["model"]
        if exec_properties["classes"] != 2:
            raise ValueError(f"classes must be 2, got {exec_properties['classes']}")
        assert isinstance(exec_properties["classes"], int)  # JSON has only doubles
        stand_ins.write_tokenizer(path_utils.serving_model_dir(model.uri), ("dark", "bright"))
        model.set_int_custom_property("classes", exec_properties["classes"])


class WriterSpec(component_spec.ComponentSpec):
    PARAMETERS = {"classes": component_spec.ExecutionParameter(type=int)}
    INPUTS = {}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class Writer(base_component.BaseComponent):
    SPEC_CLASS = WriterSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(WriterExecutor)

    def __init__(self, classes):
        super().__init__(WriterSpec(classes=classes, model=channel.Channel(type=standard_artifacts.Model)))


def small_graph(served, name="small-graph"):
    """Build Writer -> ModelValidator -> Pusher; models are pushed below `served`."""
    writer = Writer(classes=2)
    validator = ModelValidator(model=writer.outputs["model"])
    pusher = Pusher(
        model=writer.outputs["model"],
        infra_blessing=validator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=f"{served}/model")
        ),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=name,
        pipeline_root="/unused",
        components=[writer, validator, pusher],
        enable_cache=True,
        beam_pipeline_args=["--runner=FnApiRunner"],
    )
