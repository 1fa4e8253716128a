"""Options that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import click

from serving.client.connect import TIMEOUT_SECONDS
from serving.client.credentials import Credentials, read_token
from serving.export.metadata import MAX_PIXELS
from serving.export.sampling_params import MAX_SEED, GuidanceSchedule
from serving.wire.errors import ServingError

Command = Callable[..., None]

RUN = "runs/digits"
SHOW_DEFAULTS = {"show_default": True}
PORT = click.IntRange(0, 65535)
SECONDS = click.FloatRange(0, min_open=True)
FILE = click.Path(exists=True, dir_okay=False)
# What --output may end in; "" is a folder.
IMAGE_SUFFIXES = (".png", ".npz", "")
TOKEN_SUFFIXES = (".npz", ".json", ".tfrecord")
CLASS_SUFFIXES = (".csv", ".json", ".npz")


def where(command: Command) -> Command:
    """--run, --endpoint and how to reach it: which models answer."""
    run = click.option(
        "--run", "run_dir", metavar="DIR", help=f"Load the models of this run.  [default: {RUN}]"
    )
    endpoint = click.option(
        "--endpoint",
        metavar="URL",
        help="Query a server instead: grpc://host:port, http://host:port, grpcs:// or https://.",
    )
    seconds = _kept(
        "--timeout",
        type=SECONDS,
        default=TIMEOUT_SECONDS,
        help="Seconds to wait for the server's answer.",
    )
    token = _kept("--token-file", type=FILE, help="The bearer token of the server.")
    roots = _kept(
        "--root-certificates",
        type=FILE,
        help="PEM that the server's certificate comes from.  [default: the system's]",
    )
    version = _kept(
        "--model-version",
        metavar="VERSION",
        callback=_version,
        help="The number or the label of the version that the server is asked for.  [default: the newest]",
    )
    return run(endpoint(version(seconds(token(roots(command))))))


def _version(value: str | None) -> int | str | None:
    """A number, or a label; more digits than a version can have are a label that no model has."""
    return int(value) if value and value.isascii() and value.isdecimal() and len(value) < 20 else value


def _kept(
    flag: str, *, callback: Callable[[Any], Any] = lambda value: value, **attributes: Any
) -> Callable[[Command], Command]:
    """An option that is no argument of the command: `_value` reads what the callback makes of it."""

    def keep(context: click.Context, option: click.Parameter, value: Any) -> None:
        del option
        context.meta[f"{__name__}{flag}"] = callback(value)

    return click.option(flag, expose_value=False, callback=keep, **attributes)


def _value(context: click.Context, flag: str) -> Any:
    return context.meta[f"{__name__}{flag}"]


def credentials(context: click.Context) -> Credentials:
    """The values of --token-file and --root-certificates."""
    token_file, roots = _value(context, "--token-file"), _value(context, "--root-certificates")
    return Credentials(read_token(token_file) if token_file else "", roots or "")


def version(context: click.Context) -> int | str | None:
    """The value of --model-version: a number, or a label."""
    return _value(context, "--model-version")


def check_version(context: click.Context, endpoint: str | None) -> None:
    """Refuse --model-version without --endpoint."""
    if version(context) is not None and not endpoint:
        raise click.UsageError(
            "--model-version must be given with --endpoint: a run's newest models are loaded"
        )


def timeout(context: click.Context) -> float:
    """The value of --timeout, in seconds."""
    return _value(context, "--timeout")


def sampling(command: Command) -> Command:
    """The options of `SamplingParams` that every command that samples has, under its field names."""
    for option in (
        click.option(
            "--guidance-scale",
            type=click.FloatRange(0),
            default=1.0,
            help="Classifier-free guidance; 1 is off.",
        ),
        click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="1 is off."),
        click.option("--top-k", type=click.IntRange(0), default=0, help="0 is off."),
        click.option("--temperature", type=click.FloatRange(0), default=1.0, help="0 is greedy."),
        click.option(
            "--seed",
            type=click.IntRange(0, MAX_SEED),
            default=0,
            help="Of the first image; the next has seed + 1.",
        ),
    ):
        command = option(command)
    return command


guidance_schedule = click.option(
    "--guidance-schedule",
    type=click.Choice(get_args(GuidanceSchedule)),
    default="constant",
    help="linear: the scale rises from 1 at the first token to --guidance-scale at the last.",
)


def output(kinds: str) -> Callable[[Command], Command]:
    """--output, with a help text that names the kinds of files."""
    return click.option(
        "--output", required=True, type=click.Path(path_type=Path), metavar="PATH", help=kinds
    )


images = click.argument(
    "images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
images_or_folders = click.argument(
    "images",
    metavar="IMAGES_OR_FOLDERS...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
max_pixels = click.option(
    "--max-pixels",
    type=click.IntRange(1, MAX_PIXELS),
    default=2**25,
    show_default=True,
    help="Images with more are made smaller before they are sent, as servers refuse them.",
)
images_output = output("A .png (labelled grid), an .npz, or a folder (a PNG each).")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Show errors of serving as click shows its own."""
    try:
        yield
    except ServingError as error:
        raise click.ClickException(str(error)) from error


def serving_folder(run_dir: str) -> str:
    """Where a run's pushed models are."""
    return os.path.join(run_dir, "serving")
