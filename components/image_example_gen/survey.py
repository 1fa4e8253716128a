"""A survey of a source: what a run would read, and what it would refuse, before anything is paid for."""

from __future__ import annotations

import hashlib
import io
import itertools
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.dataset import Broken, TooManyBroken, check_broken
from components.image_example_gen import file_systems
from components.image_example_gen.classes import UNLABELLED, judge
from components.image_example_gen.images import Image, check_regular, read, serialize, split_of_image
from components.image_example_gen.source_kinds import Reading
from components.image_example_gen.sources import LeftAside, Source, SourceError, open_source
from components.image_example_gen.splits import SPLITS
from components.tfrecords import BrokenRecord
from serving.export.atomic import is_remote
from serving.export.standard_image import UnreadableImage, read_header
from serving.wire.errors import one_line

# Entries of a list in the result; their numbers are counted in full.
MOST_LISTED = 10_000
# Bytes that tell two files of one size apart, before both are read whole.
_START = 4096
# For a contact sheet.
_CLASSES, _PER_CLASS = 16, 12


class Problem(NamedTuple):
    """A file and what is wrong with it."""

    file: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What a run would read.

    Attributes:
      source: as given.
      fingerprint: of the content, as the cache sees it.
      classes: their names, in the order of the labels.
      splits: images of each split.
      unlabelled: images without a label.
      left_aside: files that are no images, the first of them.
      left_aside_reasons: why -> number of files.
      broken: images that cannot be read, the first of them: by their headers, or if they were verified, by
        all of their pixels.
      duplicates: images of the same bytes in both splits: {"train": [...], "eval": [...]}.
      sizes: {"min": [width, height], "median": ..., "max": ...}, by area, as people see the images.
      modes: Pillow's colour mode -> images.
      formats: Pillow's format -> images.
      animated: images of which only the first frame is used.
      headers: images whose header was read; sizes, modes and duplicates are of these.
      complete: whether the whole source was looked at.
      notes: what was decided about the source.
      problems: what a run would refuse, a line each.
    """

    source: str
    fingerprint: str = ""
    classes: tuple[str, ...] = ()
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    unlabelled: int = 0
    left_aside: list[Problem] = field(default_factory=list)
    left_aside_reasons: dict[str, int] = field(default_factory=dict)
    broken: list[Problem] = field(default_factory=list)
    duplicates: list[dict[str, list[str]]] = field(default_factory=list)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    animated: int = 0
    headers: int = 0
    complete: bool = True
    notes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The survey as one object."""
        files = ("left_aside", "broken")
        return asdict(self) | {name: [one._asdict() for one in getattr(self, name)] for name in files}


Samples = dict[str, list[Image]]  # name of a class -> images


def survey(
    reading: Reading,
    *,
    verify: bool = False,
    most_headers: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Survey, Samples]:
    """Look at every image of a source once.

    Args:
      reading: the source and how to read it.
      verify: decode every image, instead of reading headers only.
      most_headers: how many images are opened at most; further files are counted only, and of a source whose
        files hold many images, further ones are not read at all.
      progress: called with the number of images so far.

    Returns:
      (the survey, a few images of each class). A source that cannot be read has that as its only problem.
    """
    try:
        source = open_source(reading.source, reading.options)
        tally = _Tally(reading, verify)
        for index, image in enumerate(_images(source, tally)):
            if most_headers is not None and index >= most_headers:
                if not image.path:
                    tally.complete = False
                    break
                tally.count(image)
            else:
                tally.open(image)
            progress(index + 1)
        return tally.result(source), tally.samples
    # A source of somebody else's may be faulty in ways that no library documents.
    except Exception as error:
        if not isinstance(error, SourceError):
            error = SourceError(f"{reading.source} cannot be read: {one_line(error)}")
        return Survey(reading.source, problems=[str(error)], complete=False), {}


def _images(source: Source, tally: _Tally) -> Iterator[Image]:
    for found in source.scan():
        if isinstance(found, LeftAside):
            tally.left_aside(found)
        else:
            yield found


class _Tally:
    """Counts of the images so far; memory grows by 25 bytes an image."""

    def __init__(self, reading: Reading, verify: bool):
        self.samples: Samples = defaultdict(list)
        self.complete = True
        self._reading = reading
        self._verify = verify
        self._splits: Counter[str] = Counter()
        self._labels: Counter[tuple[str, int, str]] = Counter()
        self._aside: list[Problem] = []
        self._reasons: Counter[str] = Counter()
        self._broken: list[Problem] = []
        self._broken_count = 0
        self._widths, self._heights = array("I"), array("I")
        self._modes: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._animated = 0
        # Of each opened image in order: a hash of its start and size, and whether it is held out.
        self._starts, self._held_out = array("Q"), array("B")

    def left_aside(self, found: LeftAside) -> None:
        self._reasons[found.reason] += 1
        if len(self._aside) < MOST_LISTED:
            self._aside.append(Problem(*found))

    def count(self, image: Image) -> str:
        """Count an image by its split and label; return the split."""
        split = split_of_image(image, self._reading.shares)
        self._splits[split] += 1
        label = UNLABELLED if image.label is None else image.label
        self._labels[split, label, image.class_name if image.label is not None else ""] += 1
        return split

    def open(self, image: Image) -> None:
        """Count an image, and read its header or all of it."""
        split = self.count(image)
        start = 0
        try:
            with _opened(image) as file:
                start = _hash(file, whole=False)
                file.seek(0)
                header = read_header(file)
            if self._verify:
                serialize(image, self._reading.ground)
        except (UnreadableImage, BrokenRecord, OSError, tf.errors.OpError) as error:
            self._broken_count += 1
            if len(self._broken) < MOST_LISTED:
                self._broken.append(Problem(image.key, _reason(error)))
        else:
            self._widths.append(header.width)
            self._heights.append(header.height)
            self._modes[header.mode] += 1
            self._formats[header.encoding] += 1
            self._animated += header.frames > 1
            if image.class_name in self.samples or len(self.samples) < _CLASSES:
                own = self.samples[image.class_name]
                if len(own) < _PER_CLASS:
                    own.append(image)
        self._starts.append(start)
        self._held_out.append(split == "eval")

    def result(self, source: Source) -> Survey:
        """The survey; reads images that may be duplicates whole."""
        reading = self._reading
        judged = judge(source.class_names, self._labels, reading.allow)
        names, problems = judged.names, list(judged.problems)
        if not (source.ready and self.complete):
            names = source.class_names
        splits = {split: self._splits[split] for split in SPLITS}
        try:
            broken = [Broken(*one) for one in self._broken]
            check_broken(broken, sum(splits.values()), reading.max_broken, count=self._broken_count)
        except TooManyBroken as error:
            problems.append(str(error))
        if not source.ready or not self.complete:
            problems = []  # what was not read yet is checked when it is
        else:
            problems += [
                f"split {split} must have an image, got {splits}" for split in SPLITS if not splits[split]
            ]
        notes = (*source.notes, *judged.notes)
        if not source.ready:
            notes = (*notes, "the run downloads it; nothing was read yet")
        return Survey(
            source=reading.source,
            fingerprint=source.version(),
            classes=names,
            splits=splits,
            unlabelled=sum(
                number for (_, label, _), number in self._labels.items() if label == UNLABELLED or not names
            ),
            left_aside=sorted(self._aside),
            left_aside_reasons=dict(self._reasons.most_common()),
            broken=sorted(self._broken),
            duplicates=self._duplicates(source),
            sizes=self._sizes(),
            modes=dict(self._modes.most_common()),
            formats=dict(self._formats.most_common()),
            animated=self._animated,
            headers=len(self._starts),
            complete=self.complete and source.ready,
            notes=notes,
            problems=problems,
        )

    def _sizes(self) -> dict[str, list[int]]:
        if not self._widths:
            return {}
        widths, heights = np.array(self._widths, np.int64), np.array(self._heights, np.int64)
        order = np.argsort(widths * heights, kind="stable")
        places = {"min": order[0], "median": order[len(order) // 2], "max": order[-1]}
        return {name: [int(widths[place]), int(heights[place])] for name, place in places.items()}

    def _duplicates(self, source: Source) -> list[dict[str, list[str]]]:
        starts, held_out = np.array(self._starts, np.uint64), np.array(self._held_out, bool)
        shared = np.intersect1d(starts[~held_out], starts[held_out])
        candidates = np.isin(starts, shared[shared != 0])
        found: dict[int, dict[str, list[str]]] = defaultdict(lambda: {split: [] for split in SPLITS})
        if candidates.any():
            images = (image for image in source.scan() if not isinstance(image, LeftAside))
            for image, candidate, eval_ in zip(
                itertools.islice(images, len(starts)), candidates, held_out, strict=False
            ):
                if candidate:
                    with _opened(image) as file:
                        found[_hash(file, whole=True)]["eval" if eval_ else "train"].append(image.key)
        in_both = [one for one in found.values() if all(one.values())]
        ordered = [{split: sorted(keys) for split, keys in one.items()} for one in in_both]
        return sorted(ordered, key=lambda one: one["train"])[:MOST_LISTED]


def _opened(image: Image) -> Any:
    if image.path and not image.content:
        check_regular(image.path)
        return file_systems.open_file(image.path) if is_remote(image.path) else open(image.path, "rb")
    return io.BytesIO(read(image))


def _hash(file: Any, *, whole: bool) -> int:
    """A hash of a file, never 0: of all of it, or of its first bytes and its size."""
    if whole:
        digest = hashlib.blake2b(file.read(), digest_size=8).digest()
    else:
        start = file.read(_START)
        file.seek(0, io.SEEK_END)
        digest = hashlib.blake2b(start + str(file.tell()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror.lower()}"
    return str(error) if isinstance(error, UnreadableImage | BrokenRecord) else one_line(error)
