"""The source `folder:DIR`: image files in one folder, in one folder per class, or in splits of either.

    DIR/*.jpg                        unlabelled
    DIR/<class>/**/*.jpg             labelled; the sorted class names count from 0
    DIR/train/..., DIR/val/...       the source's own splits, each laid out as above
    DIR/train.txt, DIR/val.txt       the source's own splits, as lists beside either of the first two

Split folders are used if there is `train`, at least one of `val`, `valid`, `validation`, `eval` and
`test` (the first is used, the others are ignored), and no other folder. Otherwise split lists are used, if
there are any (`sources.lists`). Files and folders whose names start with a dot are ignored.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen.images import Image
from components.image_example_gen.sources import lists
from components.image_example_gen.sources.base import SourceError
from serving.wire.errors import one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class _Part:
    """Images of one split and class: all files under a folder (relative, "" for the root)."""

    folder: str
    split: str | None = None
    label: int | None = None
    class_name: str = ""


class Folder:
    """Images in a folder on any file system that TensorFlow supports; keys are paths relative to it."""

    def __init__(self, directory: str):
        if "://" not in directory:
            directory = os.path.abspath(os.path.expanduser(directory))
        self._directory = directory
        try:
            if not tf.io.gfile.isdir(directory):
                there = tf.io.gfile.exists(directory)
                raise SourceError(
                    f"folder:{directory} must be a folder, got {'a file' if there else 'a missing path'}"
                )
            self._parts, self.class_names = _layout(directory)
            for part in self._parts:
                if next(self._files(part), None) is None:
                    place = f" in its sub-folder {part.folder}" if part.folder else ""
                    raise SourceError(
                        f"folder:{directory} must have an image{place} ({', '.join(SUFFIXES)}), got none"
                    )
            self._lists = {} if self._parts[0].split else lists.find(directory)
            if self._lists:
                lists.check(directory, chain.from_iterable(map(self._files, self._parts)))
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise SourceError(f"folder:{directory} cannot be read: {one_line(error)}") from error

    def version(self) -> str:
        """A hash of names, sizes and modification times, 16 hex digits."""
        digest = hashlib.sha256()
        files = [(part.split, file) for part in self._parts for file in self._files(part)]
        for split, file in [*files, *self._lists.items()]:
            status = tf.io.gfile.stat(posixpath.join(self._directory, file))
            digest.update(f"{split} {file} {status.length} {status.mtime_nsec}\n".encode())
        return digest.hexdigest()[:16]

    def images(self) -> beam.PTransform:
        """References to the files, listed one class at a time; the bytes are read when they are written."""
        # Only the folders are in the serialized pipeline, whose size is limited on some runners.
        return _ListImages(self._directory, self._parts, bool(self._lists))

    def _files(self, part: _Part) -> Iterator[str]:
        return _image_files(self._directory, part.folder)


class _ListImages(beam.PTransform):
    def __init__(self, directory: str, parts: list[_Part], listed: bool):
        super().__init__()
        self._directory = directory
        self._parts = parts
        self._listed = listed

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        images = (
            root
            | beam.Create(self._parts)
            | beam.Reshuffle()
            | beam.FlatMap(_images_of, directory=self._directory)
        )
        if not self._listed:
            return images
        splits = root | "Folder" >> beam.Create([self._directory]) | "Read lists" >> beam.Map(lists.read)
        return images | "Look up" >> beam.FlatMap(_listed, splits=beam.pvalue.AsSingleton(splits))


def _images_of(part: _Part, directory: str) -> Iterator[Image]:
    for file in _image_files(directory, part.folder):
        yield Image(file, part.label, part.class_name, part.split, path=posixpath.join(directory, file))


def _listed(image: Image, splits: dict[str, str]) -> Iterator[Image]:
    """Yield the image with its split from the lists, or nothing if no list names it."""
    split = splits.get(lists.stem(image.key))
    if split:
        yield replace(image, split=split)


def _layout(directory: str) -> tuple[list[_Part], tuple[str, ...]]:
    """The parts of a folder and its class names."""
    folders = _folders(directory, "")
    own_eval = next((name for name in lists.EVAL_NAMES if name in folders), None)
    if own_eval and "train" in folders and set(folders) <= {"train", *lists.EVAL_NAMES}:
        roots: dict[str, str | None] = {"train": "train", own_eval: "eval"}
    else:
        roots = {"": None}

    classes = sorted({name for root in roots for name in _folders(directory, root)})
    if not classes:
        return [_Part(root, split) for root, split in roots.items()], ()
    for root in roots:
        stray = next(_image_files(directory, root, recursive=False), None)
        if stray:
            raise SourceError(f"folder:{directory} must have class folders or images, got both: {stray}")
    parts = [
        _Part(posixpath.join(root, name), split, classes.index(name), name)
        for root, split in roots.items()
        for name in _folders(directory, root)
    ]
    return parts, tuple(classes)


def _folders(directory: str, relative: str) -> list[str]:
    """The sorted names of the sub-folders, without hidden ones."""
    names = tf.io.gfile.listdir(os.path.join(directory, relative))
    # Object stores list folders with a trailing slash.
    return sorted(
        name.rstrip("/")
        for name in names
        if not name.startswith(".") and tf.io.gfile.isdir(os.path.join(directory, relative, name))
    )


def _image_files(directory: str, relative: str, *, recursive: bool = True) -> Iterator[str]:
    """The image files under a folder, in order, as paths relative to `directory`."""
    for folder, folders, files in tf.io.gfile.walk(os.path.join(directory, relative)):
        # `walk` descends into the folders that stay in this list, in this order.
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield posixpath.join(folder, name)[len(directory) :].lstrip("/")
