"""Commands that query models: generate, complete, encode, decode, reconstruct, classify.

What needs TensorFlow is imported by the command that runs, so that `--help` is fast.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from serving.cli import files, folders, grid, options
from serving.client import queries
from serving.client.client import Client
from serving.client.connect import connect, open_folder
from serving.export.sampling_params import SamplingParams

# The colour of what a completion did not keep, in the grid.
_BLANK = 128
# Files that could not be read, each with its reason.
_SKIPPED_SHOWN = 10


@click.command(context_settings=options.SHOW_DEFAULTS)
@options.where
@click.option("--class", "classes", multiple=True, help="Name, `id:3`, or `all`; repeatable.  [default: all]")
@click.option("--count", type=click.IntRange(1), default=16, help="Images a class.")
@options.sampling
@options.guidance_schedule
@options.images_output
def generate(
    run_dir: str | None,
    endpoint: str | None,
    classes: tuple[str, ...],
    count: int,
    output: Path,
    **sampling: Any,
) -> None:
    """Sample images of the given classes."""
    params = SamplingParams(**sampling)
    with options.one_line_errors(), _client(run_dir, endpoint, output, options.IMAGE_SUFFIXES) as client:
        metadata = client.metadata(queries.GENERATOR)
        with _usage_errors():
            known = metadata.class_names
            class_ids = queries.class_ids(metadata, classes or ((queries.ALL,) if known else ()))
        ids = np.repeat(np.array(class_ids or [0], np.int32), count)
        images, tokens = queries.generate(client, ids.tolist(), params)
        names = [known[one] if known else "" for one in ids]
        files.write_images(
            output,
            images,
            names,
            grid=lambda: grid.draw_grid(grid.rows_by_label(images, names)),
            arrays={"classes": ids, "tokens": tokens},
        )
    _report(output, len(images), "image")


@click.command(context_settings=options.SHOW_DEFAULTS)
@options.where
@options.images
@options.max_pixels
@click.option(
    "--keep",
    type=click.FloatRange(0, 1),
    default=0.5,
    help="Share of the image to keep, rounded to rows of tokens.",
)
@click.option(
    "--class", "classes", multiple=True, help="Name or `id:3`; exactly one, if the model has classes."
)
@click.option("--count", type=click.IntRange(1), default=4, help="Completions an image.")
@options.sampling
@options.images_output
def complete(
    run_dir: str | None,
    endpoint: str | None,
    images: tuple[Path, ...],
    max_pixels: int,
    keep: float,
    classes: tuple[str, ...],
    count: int,
    output: Path,
    **sampling: Any,
) -> None:
    """Keep the upper part of images and sample the rest; a .png shows what was kept."""
    params = SamplingParams(**sampling)
    with options.one_line_errors(), _client(run_dir, endpoint, output, options.IMAGE_SUFFIXES) as client:
        metadata = client.metadata(queries.GENERATOR)
        with _usage_errors():
            class_id = queries.one_class(metadata, classes)
            kept_rows = queries.kept_rows(metadata, keep)
        most = min(max_pixels, metadata.max_image_pixels)
        originals = [files.read_image(path, most) for path in images]
        ids = np.full(len(images) * count, class_id, np.int32)
        repeated = [original for original in originals for _ in range(count)]
        completed, tokens = queries.complete(client, repeated, ids.tolist(), kept_rows, params)
        kept_pixels = kept_rows * metadata.image_size // math.isqrt(metadata.tokens)
        names = [path.name for path in images]
        shown = np.stack(
            [files.cropped(original, metadata.image_size, metadata.ground) for original in originals]
        )
        row_names = np.repeat(names, count)
        files.write_images(
            output,
            completed,
            row_names.tolist(),
            grid=lambda: grid.draw_grid(
                _completion_rows(names, shown, completed, kept_pixels),
                headers=("original", "kept", "completed"),
            ),
            arrays={
                "originals": np.repeat(shown, count, axis=0),
                "kept_rows": np.full(len(ids), kept_rows, np.int32),
                "classes": ids,
                "tokens": tokens,
                "names": row_names,
            },
        )
    _report(output, len(completed), "image")


@click.command()
@options.where
@options.images_or_folders
@options.max_pixels
@options.output("Tokens as .npz, .json, or .tfrecord (tf.Examples).")
def encode(
    run_dir: str | None, endpoint: str | None, images: tuple[Path, ...], max_pixels: int, output: Path
) -> None:
    """Encode images, also all of a folder, to tokens; a killed command goes on where it stopped."""
    with options.one_line_errors(), _client(run_dir, endpoint, output, options.TOKEN_SUFFIXES) as client:
        most = min(max_pixels, client.metadata(queries.TOKENIZER).max_image_pixels)

        def ask(files: list[bytes]) -> dict[str, np.ndarray]:
            return {"tokens": queries.encode(client, files)}

        with folders.answered(folders.find(images), output, ask, "encode", most) as chunks:
            files.write_tokens(
                output, ((chunk.arrays["tokens"], chunk.names) for chunk in chunks if chunk.names)
            )
            _report_read(output, chunks, "row")


@click.command()
@options.where
@click.argument("tokens_file", metavar="TOKENS", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.images_output
def decode(run_dir: str | None, endpoint: str | None, tokens_file: Path, output: Path) -> None:
    """Decode the tokens of an .npz, .json or .tfrecord file to images."""
    with options.one_line_errors(), _client(run_dir, endpoint, output, options.IMAGE_SUFFIXES) as client:
        tokens, names = files.read_tokens(tokens_file)
        images = queries.decode(client, tokens)
        files.write_images(
            output,
            images,
            names,
            grid=lambda: grid.draw_grid(grid.rows_by_label(images, [tokens_file.name] * len(images))),
            arrays={"tokens": tokens},
        )
    _report(output, len(images), "image")


@click.command()
@options.where
@options.images_or_folders
@options.max_pixels
@options.images_output
def reconstruct(
    run_dir: str | None, endpoint: str | None, images: tuple[Path, ...], max_pixels: int, output: Path
) -> None:
    """Encode images, also all of a folder, and decode them again; a .png shows both side by side."""
    with options.one_line_errors(), _client(run_dir, endpoint, output, options.IMAGE_SUFFIXES) as client:
        metadata = client.metadata(queries.TOKENIZER)
        most = min(max_pixels, metadata.max_image_pixels)

        def ask(originals: list[bytes]) -> dict[str, np.ndarray]:
            made = queries.reconstruct(client, originals)
            shown = [files.cropped(original, made.shape[1], metadata.ground) for original in originals]
            return {"images": made, "originals": np.stack(shown)}

        with folders.answered(folders.find(images), output, ask, "reconstruct", most) as chunks:
            if output.suffix:
                read = [chunk for chunk in chunks if chunk.names]
                _write_pairs(output, [name for chunk in read for name in chunk.names], read)
            else:
                made = (
                    zip(chunk.names, chunk.arrays["images"], strict=True) for chunk in chunks if chunk.names
                )
                files.write_folder(output, itertools.chain.from_iterable(made))
            _report_read(output, chunks, "image")


def _write_pairs(output: Path, names: list[str], chunks: list[folders.Chunk]) -> None:
    """Write images beside their reconstructions."""
    originals, made = (
        np.concatenate([chunk.arrays[name] for chunk in chunks]) for name in ("originals", "images")
    )
    rows = [(name, pair) for name, *pair in zip(names, originals, made, strict=True)]
    files.write_images(
        output,
        made,
        names,
        grid=lambda: grid.draw_grid(rows, headers=("original", "reconstruction")),
        arrays={"originals": originals, "names": np.array(names)},
    )


@click.command()
@options.where
@options.images_or_folders
@options.max_pixels
@options.output("Classes as .csv, .json or .npz; the last two with the probability of each class.")
def classify(
    run_dir: str | None, endpoint: str | None, images: tuple[Path, ...], max_pixels: int, output: Path
) -> None:
    """Tell the class of images, also of all in a folder, with the run's classifier."""
    with options.one_line_errors(), _client(run_dir, endpoint, output, options.CLASS_SUFFIXES) as client:
        metadata = client.metadata(queries.CLASSIFIER)
        most = min(max_pixels, metadata.max_image_pixels)

        def ask(files: list[bytes]) -> dict[str, np.ndarray]:
            return {"probabilities": queries.classify(client, files)}

        with folders.answered(folders.find(images), output, ask, "classify", most) as chunks:
            read = [chunk for chunk in chunks if chunk.names]
            files.write_classes(
                output,
                [name for chunk in read for name in chunk.names],
                np.concatenate([chunk.arrays["probabilities"] for chunk in read]),
                metadata.class_names,
            )
            _report_read(output, chunks, "image")


COMMANDS = (generate, complete, encode, decode, reconstruct, classify)


def _completion_rows(
    names: list[str], originals: np.ndarray, completed: np.ndarray, kept_pixels: int
) -> list[grid.Row]:
    """Rows of original, kept part and completions; more completions than columns continue below."""
    kept = originals.copy()
    kept[:, kept_pixels:] = _BLANK
    empty = np.full_like(originals[0], grid.PAPER)
    columns = grid.MAX_COLUMNS - 2
    rows: list[grid.Row] = []
    for name, *pair, own in zip(names, originals, kept, np.split(completed, len(names)), strict=True):
        for start in range(0, len(own), columns):
            first = start == 0
            left = pair if first else [empty, empty]
            rows.append((name if first else "", [*left, *own[start : start + columns]]))
    return rows


@contextlib.contextmanager
def _client(
    run_dir: str | None, endpoint: str | None, output: Path, suffixes: tuple[str, ...]
) -> Iterator[Client]:
    if run_dir and endpoint:
        raise click.UsageError("--run or --endpoint must be given, got both")
    try:
        files.check_output(output, suffixes)
    except files.FileError as error:
        raise click.UsageError(str(error)) from error
    context = click.get_current_context()
    options.check_version(context, endpoint)
    version = options.version(context)
    timeout, credentials = options.timeout(context), options.credentials(context)
    base = options.serving_folder(run_dir or options.RUN)
    say = partial(click.echo, err=True)
    with (
        connect(endpoint, version=version, timeout=timeout, credentials=credentials)
        if endpoint
        else open_folder(base, say) as client
    ):
        yield client


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _report_read(output: Path, chunks: Iterable[folders.Chunk], what: str) -> None:
    """Say what was written, and which files were skipped."""
    skipped: list[str] = []
    count = 0
    for chunk in chunks:
        skipped += chunk.skipped
        count += len(chunk.names)
    for line in skipped[:_SKIPPED_SHOWN]:
        click.echo(f"skipped: {line}", err=True)
    if len(skipped) > _SKIPPED_SHOWN:
        click.echo(f"skipped: {len(skipped) - _SKIPPED_SHOWN} more", err=True)
    _report(output, count, what)


def _report(output: Path, number: int, what: str) -> None:
    click.echo(f"{output}: {number} {what}{'' if number == 1 else 's'}")
