"""The component TokenizerImporter."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import Channel, component_spec, standard_artifacts

from components.tokenizer_importer import executor


class TokenizerImporterSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "savedmodel": component_spec.ExecutionParameter(type=str),
        "image_size": component_spec.ExecutionParameter(type=int),
        "version": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class TokenizerImporter(base_component.BaseComponent):
    """Imports a tokenizer SavedModel into the pipeline, in place of the Trainer of stage 1.

    TFX's Importer does not fit, because it uses a folder as the artifact itself: in a Model artifact the
    SavedModel is in a sub-folder, and the cache would miss changes of the folder's content. The copy keeps
    the run's lineage complete.
    """

    SPEC_CLASS = TokenizerImporterSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, *, savedmodel: str, image_size: int, version: str = ""):
        """Build the component.

        Args:
          savedmodel: the folder of the SavedModel, with the signatures of `serving.export.tokenizer`.
          image_size: pixels a side of the run's images; must equal the tokenizer's.
          version: `saved_tokenizer.version` of the SavedModel. TFX reuses a cached copy as long as no
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
