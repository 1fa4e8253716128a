"""What commands share: the options that choose a configuration, and errors as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click


def configured(command: Any) -> Any:
    """Add the options that choose a configuration."""
    for option in (
        click.option("--small", is_flag=True, help="Shrink the preset to a few steps of tiny models."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override; repeatable."),
        click.option("--preset", default="digits", help="Name of a preset, or a .yaml file."),
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def one_line_errors(*errors: type[Exception]) -> Iterator[None]:
    """Errors whose message is one line for the user."""
    try:
        yield
    except errors as error:
        raise click.ClickException(str(error)) from error
