"""The component ClassifierImporter."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.classifier_importer import executor
from components.classifier_importer.names import NetworkFiles


class ClassifierImporterSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "network": component_spec.ExecutionParameter(type=str),
        "weights": component_spec.ExecutionParameter(type=str),
        "classes": component_spec.ExecutionParameter(type=str),
        "preset": component_spec.ExecutionParameter(type=str),
        "image_size": component_spec.ExecutionParameter(type=int),
        "ground": component_spec.ExecutionParameter(type=str),
        "max_image_pixels": component_spec.ExecutionParameter(type=int),
        "version": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {"examples": component_spec.ChannelParameter(type=standard_artifacts.Examples)}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class ClassifierImporter(base_component.BaseComponent):
    """Exports a network of keras.applications as the run's classifier, in place of its Trainer."""

    SPEC_CLASS = ClassifierImporterSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        *,
        files: NetworkFiles,
        preset: str,
        image_size: int,
        ground: str,
        max_image_pixels: int,
        version: str = "",
    ):
        """Build the component.

        Args:
          examples: the image Examples, whose classes the network has to tell.
          files: the network, its weights and its classes.
          preset: the run's configuration, by name.
          image_size: pixels a side of the run's images.
          ground: the colour behind transparent pixels.
          max_image_pixels: what the exported model takes.
          version: `network.version` of the files. TFX reuses a cached model as long as no parameter changes,
            so this one must change with them.
        """
        super().__init__(
            spec=ClassifierImporterSpec(
                examples=examples,
                **files._asdict(),
                preset=preset,
                image_size=image_size,
                ground=ground,
                max_image_pixels=max_image_pixels,
                version=version,
                model=Channel(type=standard_artifacts.Model),
            )
        )
