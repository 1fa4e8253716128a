"""The commands of `tfx-vim` around a served model: serve, generate, complete, encode, decode, reconstruct.

Whatever needs TensorFlow is imported by the command that runs, so that `--help` costs nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from serving import files, grid, queries
from serving.client import Client
from serving.connect import TIMEOUT_SECONDS, connect, open_folder
from serving.errors import ServingError

RUN = "runs/digits"
# Row i is drawn with seed + i, and both have to stay int64.
MAX_SEED = 2**62

_SHOW_DEFAULTS = {"show_default": True}
_PORT = click.IntRange(0, 65535)
_SECONDS = click.FloatRange(0, min_open=True)
_TIMEOUT = "serving.commands.timeout"  # in click's context
_PICTURE_OUTPUTS = (".png", ".npz", "")
_TOKEN_OUTPUTS = (".npz", ".json")
# What a completion has not kept, in the grid.
_BLANK = 128


@click.command(context_settings=_SHOW_DEFAULTS)
@click.option("--run", "run_dir", default=RUN, metavar="DIR", help="The run to serve.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 lets others in.")
@click.option("--port", type=_PORT, default=8500, help="gRPC; 0 picks a free one.")
@click.option("--rest_api_port", type=_PORT, default=8501, help="REST; 0 picks a free one.")
@click.option("--request-seconds", type=_SECONDS, default=120.0, help="What a request may take.")
def serve(run_dir: str, host: str, port: int, rest_api_port: int, request_seconds: float) -> None:
    """Serve a run's pushed models over TF Serving's gRPC and REST, until SIGTERM or Ctrl-C."""
    from serving import server

    limits = server.Limits(request_seconds=request_seconds)
    with _one_line_errors():
        server.serve(_base(run_dir), host=host, port=port, rest_api_port=rest_api_port, limits=limits)


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which models answer."""
    run = click.option(
        "--run", "run_dir", metavar="DIR", help=f"Load the models of this run.  [default: {RUN}]"
    )
    endpoint = click.option(
        "--endpoint", metavar="URL", help="Ask a server, grpc://host:port or http://host:port, instead."
    )
    timeout = click.option(
        "--timeout",
        type=_SECONDS,
        default=TIMEOUT_SECONDS,
        expose_value=False,
        callback=lambda context, _, seconds: context.meta.update({_TIMEOUT: seconds}),
        help="Seconds to wait for an answer of the server.",
    )
    return run(endpoint(timeout(command)))


def _sampling(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how tokens are drawn, with the names that `queries` has for them."""
    for option in (
        click.option("--guidance", type=click.FloatRange(0), default=1.0, help="1 is off."),
        click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="1 is off."),
        click.option("--top-k", type=click.IntRange(0), default=0, help="0 is off."),
        click.option("--temperature", type=click.FloatRange(0), default=1.0, help="0 is greedy."),
        click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, help="Of the first picture."),
    ):
        command = option(command)
    return command


def _output(kinds: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--output", required=True, type=click.Path(path_type=Path), metavar="PATH", help=kinds
    )


_images = click.argument(
    "images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
_pictures_output = _output("A .png (labelled grid), an .npz, or a folder (a PNG each).")


@click.command(context_settings=_SHOW_DEFAULTS)
@_where
@click.option("--class", "classes", multiple=True, help="Number, name or `all`; repeatable.  [default: all]")
@click.option("--count", type=click.IntRange(1), default=16, help="Pictures a class.")
@_sampling
@click.option(
    "--guidance-schedule",
    type=click.Choice(list(queries.GUIDANCE_SCHEDULES)),
    default="constant",
    help="Linear rises from 1 at the first token to --guidance at the last.",
)
@_pictures_output
def generate(
    run_dir: str | None,
    endpoint: str | None,
    classes: tuple[str, ...],
    count: int,
    output: Path,
    **sampling: Any,
) -> None:
    """Draw pictures of the wanted classes."""
    with _one_line_errors(), _client(run_dir, endpoint, output, _PICTURE_OUTPUTS) as client:
        metadata = client.metadata(queries.GENERATOR)
        with _bad_usage():
            wanted = queries.class_ids(metadata, classes or ((queries.ALL,) if metadata.class_names else ()))
        ids = np.repeat(np.array(wanted or [0], np.int32), count)
        pictures, tokens = queries.generate(client, ids.tolist(), **sampling)
        names = [metadata.class_names[one] if metadata.class_names else "" for one in ids]
        files.write_pictures(
            output,
            pictures,
            names,
            grid=lambda: grid.draw_grid(grid.rows_by_label(pictures, names)),
            arrays={"classes": ids, "tokens": tokens},
        )
    _tell(output, len(pictures), "picture")


@click.command(context_settings=_SHOW_DEFAULTS)
@_where
@_images
@click.option(
    "--keep",
    type=click.FloatRange(0, 1),
    default=0.5,
    help="Share kept, to the nearest row of tokens (a half up).",
)
@click.option(
    "--class", "classes", multiple=True, help="Number or name; exactly one, if the model has classes."
)
@click.option("--count", type=click.IntRange(1), default=4, help="Completions a picture.")
@_sampling
@_pictures_output
def complete(
    run_dir: str | None,
    endpoint: str | None,
    images: tuple[Path, ...],
    keep: float,
    classes: tuple[str, ...],
    count: int,
    output: Path,
    **sampling: Any,
) -> None:
    """Keep the upper part of pictures and draw the rest; a .png shows what was kept."""
    with _one_line_errors(), _client(run_dir, endpoint, output, _PICTURE_OUTPUTS) as client:
        metadata = client.metadata(queries.GENERATOR)
        with _bad_usage():
            class_id = queries.one_class(metadata, classes)
            kept = queries.kept_rows(metadata, keep)
        originals = [files.read_picture(path) for path in images]
        ids = np.full(len(images) * count, class_id, np.int32)
        repeated = [original for original in originals for _ in range(count)]
        pictures, tokens = queries.complete(client, repeated, ids.tolist(), kept, **sampling)
        side = math.isqrt(metadata.tokens)
        names = [path.name for path in images]
        shown = np.stack([files.cropped(original, metadata.image_size) for original in originals])
        row_names = np.repeat(names, count)
        files.write_pictures(
            output,
            pictures,
            row_names.tolist(),
            grid=lambda: grid.draw_grid(
                _completion_rows(names, shown, pictures, kept * metadata.image_size // side),
                headers=("original", "kept", "completed"),
            ),
            arrays={
                "originals": np.repeat(shown, count, axis=0),
                "kept_rows": np.full(len(ids), kept, np.int32),
                "classes": ids,
                "tokens": tokens,
                "names": row_names,
            },
        )
    _tell(output, len(pictures), "picture")


@click.command()
@_where
@_images
@_output("Tokens as .npz or .json.")
def encode(run_dir: str | None, endpoint: str | None, images: tuple[Path, ...], output: Path) -> None:
    """Turn pictures into tokens."""
    with _one_line_errors(), _client(run_dir, endpoint, output, _TOKEN_OUTPUTS) as client:
        tokens = queries.encode(client, [files.read_picture(path) for path in images])
        files.write_tokens(output, tokens, [path.name for path in images])
    _tell(output, len(tokens), "row")


@click.command()
@_where
@click.argument("tokens_file", metavar="TOKENS", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_pictures_output
def decode(run_dir: str | None, endpoint: str | None, tokens_file: Path, output: Path) -> None:
    """Turn the tokens of an .npz or .json file into pictures."""
    with _one_line_errors(), _client(run_dir, endpoint, output, _PICTURE_OUTPUTS) as client:
        tokens, names = files.read_tokens(tokens_file)
        pictures = queries.decode(client, tokens)
        files.write_pictures(
            output,
            pictures,
            names,
            grid=lambda: grid.draw_grid(grid.rows_by_label(pictures, [tokens_file.name] * len(pictures))),
            arrays={"tokens": tokens},
        )
    _tell(output, len(pictures), "picture")


@click.command()
@_where
@_images
@_pictures_output
def reconstruct(run_dir: str | None, endpoint: str | None, images: tuple[Path, ...], output: Path) -> None:
    """Encode pictures and decode them again; a .png shows them beside the originals."""
    with _one_line_errors(), _client(run_dir, endpoint, output, _PICTURE_OUTPUTS) as client:
        originals = [files.read_picture(path) for path in images]
        pictures = queries.reconstruct(client, originals)
        names = [path.name for path in images]
        shown = [files.cropped(original, pictures.shape[1]) for original in originals]
        rows = [(name, pair) for name, *pair in zip(names, shown, pictures, strict=True)]
        files.write_pictures(
            output,
            pictures,
            names,
            grid=lambda: grid.draw_grid(rows, headers=("original", "reconstruction")),
            arrays={"originals": np.stack(shown), "names": np.array(names)},
        )
    _tell(output, len(pictures), "picture")


COMMANDS = (serve, generate, complete, encode, decode, reconstruct)


def _completion_rows(
    names: list[str], originals: np.ndarray, completed: np.ndarray, kept_pixels: int
) -> list[grid.Row]:
    """Original, what is kept of it and its completions; too many of them go on below each other."""
    kept = originals.copy()
    kept[:, kept_pixels:] = _BLANK
    nothing = np.full_like(originals[0], grid.PAPER)
    columns = grid.MAX_COLUMNS - 2
    rows: list[grid.Row] = []
    for name, *pair, drawn in zip(names, originals, kept, np.split(completed, len(names)), strict=True):
        for start in range(0, len(drawn), columns):
            first = start == 0
            left = pair if first else [nothing, nothing]
            rows.append((name if first else "", [*left, *drawn[start : start + columns]]))
    return rows


@contextlib.contextmanager
def _client(
    run_dir: str | None, endpoint: str | None, output: Path, suffixes: tuple[str, ...]
) -> Iterator[Client]:
    if run_dir and endpoint:
        raise click.UsageError("--run and --endpoint were both given, allowed is one of them")
    try:
        files.check_output(output, suffixes)
    except files.FileError as error:
        raise click.UsageError(str(error)) from error
    timeout = click.get_current_context().meta[_TIMEOUT]
    with connect(endpoint, timeout=timeout) if endpoint else open_folder(_base(run_dir or RUN)) as client:
        yield client


@contextlib.contextmanager
def _bad_usage() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ServingError as error:
        raise click.ClickException(str(error)) from error


def _base(run_dir: str) -> str:
    return os.path.join(run_dir, "serving")


def _tell(output: Path, number: int, what: str) -> None:
    click.echo(f"{output}: {number} {what}{'' if number == 1 else 's'}")
