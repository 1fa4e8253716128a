"""A labelled grid of small images: one row a label, the label on its left."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from math import ceil, sqrt

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Images are enlarged by a whole factor up to about this many pixels, so that single pixels are visible.
SIDE = 64
MAX_COLUMNS = 16
GAP = 4
MARGIN = 8
FONT_SIZE = 14
MAX_LABEL = 24
INK, PAPER = (32, 32, 32), (255, 255, 255)

Row = tuple[str, Sequence[np.ndarray]]


def rows_by_label(images: np.ndarray, labels: Sequence[str]) -> list[Row]:
    """A row for each run of equal labels; a run that is too long continues in the next row, unlabelled.

    A single run becomes a square.

    Args:
      images: uint8 [N, S, S, 3].
      labels: one an image.
    """
    grouped = groupby(enumerate(labels), key=lambda pair: pair[1])
    runs = [(label, [index for index, _ in run]) for label, run in grouped]
    longest = max((len(run) for _, run in runs), default=1)
    columns = min(MAX_COLUMNS, ceil(sqrt(longest)) if len(runs) == 1 else longest)
    return [
        (label if start == 0 else "", [images[index] for index in run[start : start + columns]])
        for label, run in runs
        for start in range(0, len(run), columns)
    ]


def draw_grid(rows: Sequence[Row], headers: Sequence[str] = ()) -> Image.Image:
    """Draw the grid.

    Args:
      rows: (label, images uint8 [S, S, 3]) each, all images of one size.
      headers: a label above each column; () for none.
    """
    font = _font()
    labels = [_short(label) for label, _ in rows]
    side = rows[0][1][0].shape[0]
    scale = max(1, SIDE // side)
    cell = side * scale + GAP
    pitch = max([cell, *(ceil(font.getlength(header)) + 2 * GAP for header in headers)])
    columns = max(len(images) for _, images in rows)
    left = MARGIN + ceil(max(font.getlength(label) for label in labels))
    left += GAP * 2 if any(labels) else 0
    top = MARGIN + (FONT_SIZE + GAP * 2 if headers else 0)

    size = (left + columns * pitch - GAP + MARGIN, top + len(rows) * cell - GAP + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers):
        pen.text((left + column * pitch, MARGIN), header, INK, font)
    for line, (_, images) in enumerate(rows):
        y = top + line * cell
        pen.text((MARGIN, y + (cell - GAP) / 2), labels[line], INK, font, anchor="lm")
        for column, image in enumerate(images):
            enlarged = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
            sheet.paste(Image.fromarray(enlarged), (left + column * pitch, y))
    return sheet


def _font() -> ImageFont.FreeTypeFont:
    # Pillow's own font has ASCII only; class and file names have more. Imported late because it is slow.
    import matplotlib

    return ImageFont.truetype(
        os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), FONT_SIZE
    )


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 3] + "..."
