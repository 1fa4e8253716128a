"""The source `tar:PATTERN`: shards as WebDataset writes them.

Members of a shard whose names differ only behind the first dot of the file name are one sample: an image
(`0001.jpg`) and perhaps its label (`0001.cls`, an integer). The paths of the shards tell the
splits (`train-0000.tar`, `val/0000.tar`).
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator

import tensorflow as tf

from components.image_example_gen import file_systems
from components.image_example_gen.classes import MAX_LABEL
from components.image_example_gen.images import Image
from components.image_example_gen.sources import files
from components.image_example_gen.sources.base import LeftAside, Shard, SourceError
from components.image_example_gen.sources.sharded import ShardedSource
from serving.wire.errors import one_line

LABEL = "cls"


class Tar(ShardedSource):
    """Images of all shards that match a pattern; keys are the shard's name and the sample's."""

    class_names: tuple[str, ...] = ()  # only the samples hold them
    notes: tuple[str, ...] = (f"label is the member .{LABEL} beside an image",)

    def __init__(self, pattern: str):
        super().__init__(*files.shards("tar", pattern), _samples)


def _samples(shard: Shard) -> Iterator[Image | LeftAside]:
    try:
        # As a stream: a shard may be read over a network, and is read once.
        with (
            file_systems.open_file(shard.path) as content,
            tarfile.open(fileobj=content, mode="r|*") as archive,
        ):
            yield from _grouped(archive, shard.name, shard.split)
    except (tarfile.TarError, EOFError, OSError, tf.errors.OpError) as error:
        raise SourceError(f"tar:{shard.path} must be a tar archive: {one_line(error)}") from error


def _grouped(archive: tarfile.TarFile, shard: str, split: str | None) -> Iterator[Image | LeftAside]:
    """Group neighbours of one name, as WebDataset does."""
    name = ""
    sample: dict[str, bytes] = {}
    for member in archive:
        if member.isdir():
            continue
        if not member.isfile() or not files.is_text(member.name):
            readable = member.name.encode(errors="backslashreplace").decode()
            reason = "must have a name in UTF-8" if member.isfile() else "is no regular file"
            yield LeftAside(f"{shard}/{readable}", reason)
            continue
        folder, own = posixpath.split(member.name)
        stem, _, suffix = own.partition(".")
        key = posixpath.join(folder, stem)
        if key != name:
            yield from _sample(f"{shard}/{name}", sample, split)
            name, sample = key, {}
        suffix = suffix.lower()
        if suffix == LABEL or f".{suffix}" in files.IMAGE_SUFFIXES:
            if suffix in sample:
                raise SourceError(f"tar: {shard}/{member.name} must be there once, got it again")
            content = archive.extractfile(member)
            sample[suffix] = content.read() if content else b""
        else:
            reason = f"has the suffix .{suffix}, which no known image format has"
            yield LeftAside(f"{shard}/{member.name}", reason)
    yield from _sample(f"{shard}/{name}", sample, split)


def _sample(key: str, sample: dict[str, bytes], split: str | None) -> Iterator[Image]:
    images = [suffix for suffix in sample if suffix != LABEL]
    if not images and sample:
        raise SourceError(f"tar: {key}.{LABEL} must be beside its image, got it alone")
    if not images:
        return
    if len(images) > 1:
        raise SourceError(f"tar: {key} must have one image, got {', '.join(sorted(images))}")
    label = None
    if LABEL in sample:
        text = sample[LABEL].strip()
        if text != b"-1" and (not text.isdigit() or int(text) > MAX_LABEL):
            raise SourceError(f"tar: {key}.{LABEL} must be -1 to {MAX_LABEL}, got {text[:40]!r}")
        label = None if text == b"-1" else int(text)
    yield Image(key, label, "" if label is None else str(label), split, content=sample[images[0]])
