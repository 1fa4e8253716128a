"""The source `folder:DIR`: image files in one folder, in one folder per class, or in splits of either.

    DIR/*.jpg                        unlabelled
    DIR/<class>/**/*.jpg             labelled; the sorted class names count from 0
    DIR/train/..., DIR/val/...       the source's own splits, each laid out as above
    DIR/train.txt, DIR/val.txt       the source's own splits, as lists beside either of the first two

Split folders are used if their names stand for one of `splits.TRAIN_NAMES` and at least one of `EVAL_NAMES`
(the first is used, the others are left aside), as `Test` or `val2017` do, and there is no other folder.
Otherwise split lists are used, if there are any (`sources.lists`). A single class is no class, and a single
folder that holds only folders is entered, as archives unpack. Hidden files and folders are left aside.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen import file_systems
from components.image_example_gen.images import Image
from components.image_example_gen.sources import files, lists
from components.image_example_gen.sources.base import LeftAside, SourceError
from components.image_example_gen.splits import choose_splits, is_split_name, split_word
from serving.export.atomic import is_remote
from serving.wire.errors import one_line


@dataclass(frozen=True)
class _Part:
    """Images of one split and class: all files under a folder (relative, "" for the root)."""

    folder: str
    split: str | None = None
    label: int | None = None
    class_name: str = ""


@dataclass(frozen=True)
class _Layout:
    """How a folder is read."""

    parts: tuple[_Part, ...]
    class_names: tuple[str, ...]
    left_aside: tuple[LeftAside, ...]
    notes: tuple[str, ...]


class Folder:
    """Images in a folder on this machine or an object store; keys are paths relative to it."""

    ready = True

    def __init__(self, directory: str):
        if not is_remote(directory):
            directory = os.path.abspath(os.path.expanduser(directory))
        self._directory = directory
        try:
            if not file_systems.is_folder(directory):
                there = file_systems.exists(directory)
                raise SourceError(
                    f"folder:{directory} must be a folder, got {'a file' if there else 'a missing path'}"
                )
            layout = _layout(directory)
            self._parts, self._left_aside = layout.parts, layout.left_aside
            self.class_names, self.notes = layout.class_names, layout.notes
            if next(self._files(), None) is None:
                formats = ", ".join(sorted(files.IMAGE_SUFFIXES))
                raise SourceError(f"folder:{directory} must have an image ({formats}), got none")
            own_splits = any(part.split for part in self._parts)
            self._lists = None if own_splits else lists.read(directory, f"folder:{directory}")
            if self._lists:
                self._lists.check(file for _, file in self._files())
                self._lists.check_labels("class folders" if self.class_names else "")
        except (tf.errors.OpError, OSError, UnicodeError) as error:
            raise SourceError(f"folder:{directory} cannot be read: {one_line(error)}") from error

    def version(self) -> str:
        """A hash of names, sizes and modification times, 16 hex digits."""
        found = ((part.split or "", file) for part, file in self._files())
        names = self._lists.files.items() if self._lists else ()
        return files.version(self._directory, chain(found, names))

    def scan(self) -> Iterator[Image | LeftAside]:
        """Every image, with its split if a list names it, and every file that is none."""
        yield from self._left_aside
        for part in self._parts:
            for found in files.walk(self._directory, part.folder):
                if isinstance(found, LeftAside):
                    if not self._lists or found.file not in self._lists.files.values():
                        yield found
                    continue
                image = _image(self._directory, part, found)
                if self._lists is None:
                    yield image
                else:
                    yield self._lists.look_up(image) or LeftAside(found, "is in no list")

    def images(self) -> beam.PTransform:
        """References to the files, listed one class at a time; the bytes are read when they are written."""
        # Only the folders are in the serialized pipeline, whose size is limited on some runners.
        return _ListImages(self._directory, self._parts, self._lists is not None)

    def _files(self) -> Iterator[tuple[_Part, str]]:
        for part in self._parts:
            for found in files.walk(self._directory, part.folder):
                if not isinstance(found, LeftAside):
                    yield part, found


class _ListImages(beam.PTransform):
    def __init__(self, directory: str, parts: tuple[_Part, ...], listed: bool):
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
        folder = root | "Folder" >> beam.Create([self._directory])
        read = folder | "Read lists" >> beam.Map(lists.read, f"folder:{self._directory}")
        return images | "Look up" >> beam.FlatMap(_listed, beam.pvalue.AsSingleton(read))


def _images_of(part: _Part, directory: str) -> Iterator[Image]:
    for found in files.walk(directory, part.folder):
        if not isinstance(found, LeftAside):
            yield _image(directory, part, found)


def _image(directory: str, part: _Part, file: str) -> Image:
    return Image(file, part.label, part.class_name, part.split, path=posixpath.join(directory, file))


def _listed(image: Image, read: lists.Lists) -> Iterator[Image]:
    found = read.look_up(image)
    if found:
        yield found


def _layout(directory: str) -> _Layout:
    """Decide how a folder is read."""
    root, notes = "", []
    folders = files.folders_in(directory)
    while len(folders) == 1 and not _has_images(directory, root):
        inside = files.folders_in(os.path.join(directory, root, folders[0]))
        if not inside or _has_images(directory, posixpath.join(root, folders[0])):
            break
        root, folders = posixpath.join(root, folders[0]), inside
    if root:
        notes.append(f"the only folder {root} is entered")

    by_word = {split_word(name) or name: name for name in reversed(folders)}
    chosen = choose_splits(by_word.keys())
    roots: dict[str, str | None] = {root: None}
    aside: list[LeftAside] = []
    if chosen and len(by_word) == len(folders) and all(map(is_split_name, folders)):
        used = [by_word[word] for word in chosen]
        roots = {posixpath.join(root, by_word[word]): split for word, split in chosen.items()}
        notes.append(f"splits are the folders {' and '.join(used)}")
        others = [name for name in folders if name not in used]
        aside = [LeftAside(posixpath.join(root, name), "is another split") for name in others]

    classes = sorted({name for place in roots for name in files.folders_in(os.path.join(directory, place))})
    if len(classes) < 2:
        if classes:
            notes.append(f"the only class {classes[0]} is no class: images are unlabelled")
        parts = [_Part(place, split) for place, split in roots.items()]
        return _Layout(tuple(parts), (), tuple(aside), tuple(notes))
    for place in roots:
        for found in files.walk(directory, place, recursive=False):
            if not isinstance(found, LeftAside):
                raise SourceError(
                    f"folder:{directory} must have class folders or images in {place or 'it'}, "
                    f"got both: {found} beside {', '.join(classes[:3])}"
                )
            aside.append(found)
    parts = [
        _Part(posixpath.join(place, name), split, classes.index(name), name)
        for place, split in roots.items()
        for name in files.folders_in(os.path.join(directory, place))
    ]
    return _Layout(tuple(parts), tuple(classes), tuple(aside), tuple(notes))


def _has_images(directory: str, relative: str) -> bool:
    found = files.walk(directory, relative, recursive=False)
    return any(not isinstance(one, LeftAside) for one in found)
