"""How scores answer to known damage: `python -m benchmarks.damage FOLDER --features NETWORK`.

The images of a folder are split in two halves. One is the reference; the other is scored as it is, and after
damage of five strengths. A score that can be trusted is small for the halves and rises with the strength.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from components.evaluators.comparison import Comparison, compare, read_reference
from components.evaluators.image_sets import ImageSet
from components.evaluators.protocols import open_protocol

SHOWN = ("fid", "kid", "precision", "recall", "density", "coverage")


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _noisy(image: Image.Image, deviation: float) -> Image.Image:
    levels = np.asarray(image, np.float32)
    noise = np.random.default_rng(levels.size).normal(0.0, deviation, levels.shape)
    return Image.fromarray(np.clip(np.rint(levels + noise), 0, 255).astype(np.uint8))


DAMAGE: Mapping[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]] = {
    "JPEG, quality": (lambda image, quality: _jpeg(image, int(quality)), (75, 50, 25, 10, 5)),
    "blur, radius": (lambda image, radius: image.filter(ImageFilter.GaussianBlur(radius)), (0.5, 1, 2, 4, 8)),
    "noise, deviation": (_noisy, (4, 8, 16, 32, 64)),
}


@click.command()
@click.argument("folder")
@click.option("--features", required=True, metavar="NETWORK", help="As for `tfx-vim evaluate`.")
@click.option("--images", default=1000, show_default=True, help="At most, in both halves together.")
@click.option("--image-size", type=int, help="Crop and resize all images.")
def main(folder: str, features: str, images: int, image_size: int | None) -> None:
    """Score damaged halves of a folder against the other half."""
    network = open_protocol(features)
    (levels,) = (
        batch for batch, _ in zip(ImageSet(folder, image_size).batches(images), range(1), strict=False)
    )
    table = Table("damage", *SHOWN)
    with tempfile.TemporaryDirectory() as scratch:

        def stored(name: str, half: np.ndarray) -> str:
            path = str(Path(scratch) / f"{name}.npz")
            np.savez(path, half)
            return path

        reference = read_reference(stored("reference", levels[::2]), network, None, 50)

        def show(label: str, half: np.ndarray) -> None:
            scores = compare(stored("half", half), reference, network, batch_size=50)
            table.add_row(label, *_row(scores))
            click.echo(f"{label}: {', '.join(_row(scores))}", err=True)

        other = levels[1::2][: len(levels) // 2]
        show("none", other)
        for kind, (damage, strengths) in DAMAGE.items():
            for strength in strengths:
                show(f"{kind} {strength:g}", np.stack([_damaged(damage, strength, one) for one in other]))
    Console(width=100).print(table)


def _damaged(
    damage: Callable[[Image.Image, float], Image.Image], strength: float, image: np.ndarray
) -> np.ndarray:
    return np.asarray(damage(Image.fromarray(image), strength).convert("RGB"), np.uint8)


def _row(comparison: Comparison) -> list[str]:
    return [f"{comparison.scores[name]:.4g}" for name in SHOWN]


if __name__ == "__main__":
    main()
