"""The source `tfds:NAME`: any image data set of TensorFlow Datasets.

NAME may include a configuration and a version (`cifar10`, `mnist:3.0.1`, `imagenette/160px-v2`). A data
set that is already prepared is read from `data_dir` without its code; any other is downloaded and prepared
there when `images` is called, not earlier.

The data set's own splits are used if it has `train` and one of `validation`, `valid`, `val`, `eval` and
`test` (the first is used); otherwise all of its splits are pooled and split by hash.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds

from components.image_example_gen.images import Image
from components.image_example_gen.sources.base import SourceError
from serving.wire.errors import one_line

EVAL_SPLITS = ("validation", "valid", "val", "eval", "test")


class Tfds:
    """Images as stored, without decoding; keys are TFDS's own ids (file name and index)."""

    def __init__(self, name: str, data_dir: str | None):
        self._name = name
        try:
            self._builder = tfds.builder(name, data_dir=data_dir)
            features = self._builder.info.features
        # Neither TFDS's registry nor the code of its data sets documents what it raises.
        except Exception as error:
            raise SourceError(f"tfds:{name} cannot be loaded: {one_line(error)}") from error
        image = _first(features, tfds.features.Image)
        if image is None:
            raise SourceError(f"tfds:{name} must have an image feature, got {sorted(features)}")
        self._image: str = image
        self._label = _first(features, tfds.features.ClassLabel)
        self.class_names: tuple[str, ...] = tuple(features[self._label].names) if self._label else ()

    def version(self) -> str:
        """Name, configuration and version, which identify the content in TFDS."""
        return self._builder.info.full_name

    def images(self) -> beam.PTransform:
        """Read file by file; download and prepare first if that has not been done."""
        if not self._builder.is_prepared():
            try:
                self._builder.download_and_prepare()
            except Exception as error:
                raise SourceError(f"tfds:{self._name} cannot be downloaded: {one_line(error)}") from error
        return _ReadImages(self._builder, self._image, self._label, self.class_names)


class _ReadImages(beam.PTransform):
    def __init__(
        self, builder: tfds.core.DatasetBuilder, image: str, label: str | None, class_names: tuple[str, ...]
    ):
        super().__init__()
        self._builder = builder
        self._image = image
        self._label = label
        self._class_names = class_names

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        wanted = {name for name in (self._image, self._label) if name}
        return [
            root
            | f"Read {name}"
            >> tfds.beam.ReadFromTFDS(
                self._builder,
                split=name,
                decoders=tfds.decode.PartialDecoding(wanted, {self._image: tfds.decode.SkipDecoding()}),
                read_config=tfds.ReadConfig(add_tfds_id=True),
            )
            | f"Image of {name}"
            >> beam.Map(
                _image, image=self._image, label=self._label, class_names=self._class_names, split=split
            )
            for name, split in _splits(self._builder).items()
        ] | beam.Flatten()


def _image(
    row: dict[str, Any], *, image: str, label: str | None, class_names: tuple[str, ...], split: str | None
) -> Image:
    number = int(row[label]) if label else -1
    # TFDS uses the label -1 for unlabelled images, such as test splits of competitions.
    known = number >= 0
    return Image(
        key=row["tfds_id"].numpy().decode(),
        label=number if known else None,
        class_name=class_names[number] if known else "",
        split=split,
        content=row[image].numpy(),
    )


def _splits(builder: tfds.core.DatasetBuilder) -> dict[str, str | None]:
    """The TFDS splits to read -> our split, or None if the hash decides."""
    names = list(builder.info.splits)
    own_eval = next((name for name in EVAL_SPLITS if name in names), None)
    if own_eval and "train" in names:
        return {"train": "train", own_eval: "eval"}
    return dict.fromkeys(names)


def _first(features: tfds.features.FeaturesDict, kind: type) -> str | None:
    """The name of the first feature of a type, if there is one."""
    return next((name for name, feature in features.items() if isinstance(feature, kind)), None)
