"""A survey for people: a few lines, and a contact sheet of the images as a model sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from components.image_example_gen.images import read
from components.image_example_gen.survey import Samples, Survey
from components.tfrecords import BrokenRecord
from serving.cli.files import cropped
from serving.cli.grid import draw_grid
from serving.export.standard_image import UnreadableImage

_SHOWN = 5
_NAMES_SHOWN = 8


def lines(survey: Survey) -> Iterator[str]:
    """Describe a survey, a line each."""
    yield from (f"{name:<11} {text}" for name, text in _rows(survey))


def sheet(samples: Samples, size: int, ground: str) -> Image.Image:
    """Draw a few images of each class, one row a class, cropped to `size` pixels as a model sees them.

    Raises:
      ValueError: there is no image to draw.
    """
    if not samples:
        raise ValueError("sheet must have an image to show, got none")
    rows: list[tuple[str, list[np.ndarray]]] = []
    for name, images in sorted(samples.items()):
        shown = []
        for image in images:
            # A header may be whole where the pixels are not.
            with contextlib.suppress(UnreadableImage, BrokenRecord):
                shown.append(cropped(read(image), size, ground))
        if shown:
            rows.append((name, shown))
    if not rows:
        raise ValueError("sheet must have an image to show, got none that can be decoded")
    return draw_grid(rows)


def _rows(survey: Survey) -> Iterator[tuple[str, str]]:
    yield "source", f"{survey.source}  {survey.fingerprint}".rstrip()
    if survey.problems and not sum(survey.splits.values()):  # it could not be opened
        yield from (("problem", problem) for problem in survey.problems)
        return
    names = survey.classes
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    unknown = "none, unlabelled" if survey.complete else "known when all images are read"
    yield "classes", f"{len(names)}: {', '.join(names[:_NAMES_SHOWN])}{more}" if names else unknown
    counts = ", ".join(f"{number} {split}" for split, number in survey.splits.items())
    unlabelled = f"; {survey.unlabelled} without a label" if names and survey.unlabelled else ""
    yield "images", counts + unlabelled + ("" if survey.complete else ", and more that were not looked at")
    if survey.sizes:
        sizes = ", ".join(f"{name} {width} x {height}" for name, (width, height) in survey.sizes.items())
        looked = "" if survey.headers == sum(survey.splits.values()) else f" (of {survey.headers} images)"
        yield "sizes", sizes + looked
        yield "kinds", f"{_counted(survey.formats)}; {_counted(survey.modes)}"
    if survey.animated:
        yield "animated", f"{survey.animated}, of which the first frame is used"
    if survey.left_aside_reasons:
        yield (
            "left aside",
            ", ".join(f"{number} ({reason})" for reason, number in survey.left_aside_reasons.items()),
        )
    if survey.broken:
        first = ", ".join(f"{one.file} {one.reason}" for one in survey.broken[:_SHOWN])
        yield "broken", f"{len(survey.broken)}: {first}{', ...' if len(survey.broken) > _SHOWN else ''}"
    if survey.duplicates:
        pairs = ", ".join(f"{one['train'][0]} = {one['eval'][0]}" for one in survey.duplicates[:_SHOWN])
        more = ", ..." if len(survey.duplicates) > _SHOWN else ""
        yield "duplicates", f"{len(survey.duplicates)} in both splits: {pairs}{more}"
    yield from (("note", note) for note in survey.notes)
    yield from (("problem", problem) for problem in survey.problems)


def _counted(counts: Mapping[str, int]) -> str:
    shown = [f"{number} {name}" for name, number in list(counts.items())[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(counts) > _SHOWN else "")
