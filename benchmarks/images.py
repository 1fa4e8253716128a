"""Scores over the number of training images: `python -m benchmarks.images photos --images 100`.

Trains the tokenizer of a preset on the first so many images of one shuffled list, with the same steps each
time, and prints its scores on the same held-out images. One folder holds all, so that a row that was measured
is read from the cache, and one that was stopped goes on.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.ablations import configured, measure
from components.image_example_gen.sources.files import IMAGE_SUFFIXES
from trainers.classifier.config import Classifier

AT_LEAST_1 = click.IntRange(min=1)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--images", "counts", multiple=True, type=AT_LEAST_1, required=True, help="Training images; repeatable."
)
@click.option(
    "--held-out", type=AT_LEAST_1, default=1000, show_default=True, help="Images that all are scored on."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default="runs/images", show_default=True, help="Its folder."
)
@click.option("--preset", default="cifar10", show_default=True, help="Whose tokenizer is trained.")
@click.option("--steps", default=600, show_default=True, help="Of each tokenizer.")
@click.option("--set", "overrides", multiple=True, help="A key, as for `tfx-vim run`.")
@click.option("--small", is_flag=True, help="Smoke test: tiny models, a few steps.")
def main(
    source: Path,
    counts: tuple[int, ...],
    held_out: int,
    output: Path,
    preset: str,
    steps: int,
    overrides: tuple[str, ...],
    small: bool,
) -> None:
    """Train a tokenizer on each number of the images in the folder SOURCE and print its held-out scores."""
    paths = shuffled(source)
    if held_out + max(counts) > len(paths):
        raise click.UsageError(
            f"--images and --held-out must be at most {len(paths)} together, got {max(counts)} and {held_out}"
        )
    # Its features are for FID, which is not shown.
    trained = isinstance(configured(preset, overrides, small=small).classifier, Classifier)
    short = ("classifier.train.steps=20", "classifier.train.optimizer.warmup_steps=0") if trained else ()
    length = () if small else (f"stage1.train.steps={steps}", *short)
    folders = [output.resolve() / "split" / str(count) for count in counts]
    configs = [
        configured(preset, (*length, *overrides, f"data.source=folder:{folder}"), small=small)
        for folder in folders
    ]
    click.echo("| training images | times each was seen | PSNR, dB | codes used, % | perplexity |")
    click.echo("|---|---|---|---|---|")
    for count, folder, config in zip(counts, folders, configs, strict=True):
        # Links of an earlier run, which may have held out others.
        shutil.rmtree(folder, ignore_errors=True)
        link(source, folder / "train", paths[held_out:][:count])
        link(source, folder / "val", paths[:held_out])
        scores = measure(config, output)
        seen = config.trained_stage1.train.steps * config.trained_stage1.train.batch_size / count
        click.echo(
            f"| {count:,} | {seen:.3g} | {scores['psnr']:.2f} | {100 * scores['codebook_usage']:.1f} | "
            f"{scores['codebook_perplexity']:.0f} |"
        )


def shuffled(source: Path) -> list[Path]:
    """The images of a folder in random order, relative to it."""
    paths = sorted(
        path.relative_to(source) for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
    )
    random.Random(0).shuffle(paths)
    return paths


def link(source: Path, folder: Path, paths: Sequence[Path]) -> None:
    """Make a folder with links to some images of `source`, in the same sub-folders."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to((source / path).resolve())


if __name__ == "__main__":
    main()
