"""The component ImageExampleGen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter

from components.image_example_gen import executor
from components.image_example_gen.source_kinds import SourceOptions
from components.image_example_gen.splits import DEFAULT_SHARES
from serving.export.metadata import WHITE


class ImageExampleGenSpec(types.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "source": ExecutionParameter(type=str),
        "splits": ExecutionParameter(type=str),
        "num_shards": ExecutionParameter(type=int),
        "max_broken": ExecutionParameter(type=float),
        "ground": ExecutionParameter(type=str),
        "options": ExecutionParameter(type=str),
        "allow": ExecutionParameter(type=str),
        "dataset_version": ExecutionParameter(type=str),
    }
    INPUTS = {}
    OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Converts a collection of images to Examples with the splits `train` and `eval`.

    Output `examples`: uncompressed TFRecords of tf.Example with `image/encoded`, `image/format`,
    `image/height`, `image/width`, `image/key`, `image/label` and `image/class`, and the sidecars
    `dataset.json` and `quarantine.jsonl` (see `components.dataset`).
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        source: str,
        splits: dict[str, int] | None = None,
        num_shards: int = 1,
        max_broken: float = 0.01,
        ground: str = WHITE,
        options: SourceOptions = SourceOptions(),
        allow: Sequence[str] = (),
        dataset_version: str = "",
    ):
        """Build the component.

        Args:
          source: digits, folder:DIR, tfds:NAME or another of `source_kinds`.
          splits: the shares of train and eval if the source has no splits of its own.
          num_shards: files per split, at least 1; also the number of workers that can write at once.
          max_broken: the fraction of images, 0 to 1, that may be broken before the run stops.
          ground: the colour behind transparent pixels, "#rrggbb".
          options: how to read the source.
          allow: checks of the classes that are left out (`classes.CHECKS`).
          dataset_version: `sources.source_version` of the source. TFX reuses a cached result as long
            as no parameter changes, so this one must change with the data.
        """
        super().__init__(
            ImageExampleGenSpec(
                source=source,
                splits=json.dumps(splits or DEFAULT_SHARES),
                num_shards=num_shards,
                max_broken=max_broken,
                ground=ground,
                options=json.dumps(asdict(options), sort_keys=True),
                allow=json.dumps(sorted(allow)),
                dataset_version=dataset_version,
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
