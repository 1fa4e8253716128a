"""The source `tfds:NAME`: any image data set of TensorFlow Datasets.

NAME may include a configuration and a version (`cifar10`, `mnist:3.0.1`, `imagenette/160px-v2`). A data
set that is already prepared is read from `data_dir` without its code; any other is downloaded and prepared
there when `images` is called, not earlier.

Image and label are the features that the configuration names, else the data set's `supervised_keys`, else
those called `image` and `label`. The data set's own splits are used if it has one of `splits.TRAIN_NAMES` and
of `EVAL_NAMES` (the first is used); otherwise all of its splits are pooled and split by hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds

from components.image_example_gen.images import Image
from components.image_example_gen.sources.base import LeftAside, SourceError
from components.image_example_gen.splits import choose_splits
from serving.wire.errors import one_line


class Tfds:
    """Images as stored, without decoding; keys are TFDS's own ids (file name and index)."""

    def __init__(
        self,
        name: str,
        tfds_data_dir: str | None = None,
        image_feature: str | None = None,
        label_feature: str | None = None,
    ):
        self._name = name
        try:
            self._builder = tfds.builder(name, data_dir=tfds_data_dir)
            features = self._builder.info.features
            supervised = self._builder.info.supervised_keys
        # Neither TFDS's registry nor the code of its data sets documents what it raises.
        except Exception as error:
            raise SourceError(f"tfds:{name} cannot be loaded: {one_line(error)}") from error
        pair = supervised if supervised and all(isinstance(key, str) for key in supervised) else (None, None)
        images, labels = (
            sorted(key for key, feature in features.items() if isinstance(feature, kind))
            for kind in (tfds.features.Image, tfds.features.ClassLabel)
        )
        if not images:
            raise SourceError(f"tfds:{name} must have an image feature, got {sorted(features)}")
        self._image = _chosen(name, "image", image_feature, (pair[0], "image"), images)
        self._label = ""
        if labels or label_feature:
            self._label = _chosen(name, "label", label_feature, (pair[1], "label"), labels)
        self.class_names: tuple[str, ...] = tuple(features[self._label].names) if self._label else ()
        self.ready = self._builder.is_prepared()
        unused = sorted(set(self._builder.info.splits) - set(_splits(self._builder)))
        self.notes = (
            f"image is the feature {self._image}, label {self._label or 'none'}",
            *(f"the split {name} is not used" for name in unused),
        )

    def version(self) -> str:
        """Name, configuration, version and chosen features, which identify the content in TFDS."""
        return f"{self._builder.info.full_name} {self._image} {self._label}".rstrip()

    def scan(self) -> Iterator[Image | LeftAside]:
        """Every image of a data set that is prepared, or nothing."""
        if not self._builder.is_prepared():
            return
        for name, split in _splits(self._builder).items():
            rows = self._builder.as_dataset(
                split=name,
                decoders=self._decoders(),
                read_config=tfds.ReadConfig(add_tfds_id=True),
            )
            for row in rows:
                yield _image(
                    row, image=self._image, label=self._label, class_names=self.class_names, split=split
                )

    def images(self) -> beam.PTransform:
        """Read file by file; download and prepare first if that has not been done."""
        if not self._builder.is_prepared():
            try:
                self._builder.download_and_prepare()
            except Exception as error:
                raise SourceError(f"tfds:{self._name} cannot be downloaded: {one_line(error)}") from error
        return _ReadImages(self._builder, self._decoders(), self._image, self._label, self.class_names)

    def _decoders(self) -> tfds.decode.PartialDecoding:
        wanted = {name for name in (self._image, self._label) if name}
        return tfds.decode.PartialDecoding(wanted, {self._image: tfds.decode.SkipDecoding()})


class _ReadImages(beam.PTransform):
    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        decoders: tfds.decode.PartialDecoding,
        image: str,
        label: str,
        class_names: tuple[str, ...],
    ):
        super().__init__()
        self._builder = builder
        self._decoders = decoders
        self._image = image
        self._label = label
        self._class_names = class_names

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        return [
            root
            | f"Read {name}"
            >> tfds.beam.ReadFromTFDS(
                self._builder,
                split=name,
                decoders=self._decoders,
                read_config=tfds.ReadConfig(add_tfds_id=True),
            )
            | f"Image of {name}"
            >> beam.Map(
                _image, image=self._image, label=self._label, class_names=self._class_names, split=split
            )
            for name, split in _splits(self._builder).items()
        ] | beam.Flatten()


def _image(
    row: dict[str, Any], *, image: str, label: str, class_names: tuple[str, ...], split: str | None
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
    return {**choose_splits(names)} or dict.fromkeys(names)


def _chosen(
    name: str, kind: str, asked: str | None, usual: tuple[str | None, ...], candidates: list[str]
) -> str:
    """The feature that was asked for, or the first usual one; "" for a label that was declined."""
    if asked == "" and kind == "label":
        return ""
    if asked is not None:
        if asked not in candidates:
            raise SourceError(f"data.{kind}_feature must be one of {', '.join(candidates)}, got {asked!r}")
        return asked
    found = next((key for key in usual if key in candidates), None)
    if found is None:
        declined = ' or "" for none' if kind == "label" else ""
        raise SourceError(
            f"tfds:{name} must say which feature is the {kind}: "
            f"data.{kind}_feature must be one of {', '.join(candidates)}{declined}"
        )
    return found
