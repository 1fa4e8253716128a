"""The component TokenizerImporter."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import Channel, component_spec, standard_artifacts

from components.tokenizer_importer import executor


class TokenizerImporterSpec(component_spec.ComponentSpec):
    """What goes in and comes out."""

    PARAMETERS = {
        "savedmodel": component_spec.ExecutionParameter(type=str),
        "image_size": component_spec.ExecutionParameter(type=int),
        "version": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class TokenizerImporter(base_component.BaseComponent):
    """Brings a tokenizer SavedModel into the pipeline, where the Trainer of stage 1 stands otherwise.

    Not TFX's Importer, which takes a folder for an artifact as it is: a SavedModel lies elsewhere in one,
    and a folder that changed would be taken from the cache. The copy stays with the run's lineage.
    """

    SPEC_CLASS = TokenizerImporterSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, *, savedmodel: str, image_size: int, version: str = ""):
        """Builds the component.

        Args:
          savedmodel: the folder of the SavedModel, with the signatures of
            `serving.export.tokenizer`.
          image_size: pixels a side of the run's images, which must be the tokenizer's.
          version: `saved_tokenizer.version` of the SavedModel. TFX takes a cached copy as long as no
            parameter changes, so this one must change with the model.
        """
        super().__init__(
            spec=TokenizerImporterSpec(
                savedmodel=savedmodel,
                image_size=image_size,
                version=version,
                model=Channel(type=standard_artifacts.Model),
            )
        )
