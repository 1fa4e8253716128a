"""The command `demo`.

What needs TensorFlow is imported by the command that runs, so that `--help` is fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from serving.cli import options
from serving.client.credentials import NONE
from serving.export.metadata import Metadata
from serving.export.versions import model_names, no_model, versions
from serving.server import ports

if TYPE_CHECKING:
    from serving.client.aio import AsyncClient

# For a server of its own to load and warm up the models.
_SECONDS = 300.0
_TOKENIZER = "vit_vqgan"


@click.command(context_settings=options.SHOW_DEFAULTS)
@options.where
@click.option(
    "--tokenizer",
    "tokenizers",
    multiple=True,
    metavar="NAME",
    help="Served tokenizers to compare; repeatable.  [default: those of the run, or vit_vqgan]",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 accepts other machines.")
@click.option("--port", type=options.PORT, default=8600, help="0 picks a free one.")
@click.option("--insecure", is_flag=True, help="Let other machines ask: the page has no password.")
@click.option("--open/--no-open", "opens", default=False, help="Open the page in a browser.")
def demo(
    run_dir: str | None,
    endpoint: str | None,
    tokenizers: tuple[str, ...],
    host: str,
    port: int,
    insecure: bool,
    opens: bool,
) -> None:
    """Show a page to try the models of a run or of a server, until SIGTERM or Ctrl-C."""
    if run_dir and endpoint:
        raise click.UsageError("--run or --endpoint must be given, got both")
    from serving.client import aio
    from serving.server import access

    context = click.get_current_context()
    timeout, credentials = options.timeout(context), options.credentials(context)
    options.check_version(context, endpoint)
    with options.one_line_errors():
        if not insecure and not access.is_loopback(host):
            raise click.UsageError(f"host must be 127.0.0.1, got {host}; --insecure lets everybody in")
        ports.check_free(host, port)
        base = options.serving_folder(run_dir or options.RUN)
        if not endpoint and not model_names(base):
            raise click.ClickException(no_model(base))
        names = tokenizers or ((_TOKENIZER,) if endpoint else _tokenizers_in(base))
        with _endpoint(endpoint, base) as address:

            def connect() -> AsyncClient:
                return aio.connect(
                    address,
                    version=options.version(context),
                    timeout=timeout,
                    credentials=credentials if endpoint else NONE,
                )

            local = access.is_loopback(host)
            asyncio.run(_serve(connect, names, host, port, local=local, opens=opens))


@contextlib.contextmanager
def _endpoint(endpoint: str | None, base: str) -> Iterator[str]:
    """The address of the server that is asked; without an endpoint it is started for the run's folder."""
    if endpoint:
        yield endpoint
        return
    from serving.client.process import started

    # Ended like Ctrl-C, so that the server ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    click.echo("loading the models ...", err=True)
    with started(base, seconds=_SECONDS) as (grpc, _):
        yield grpc


def _tokenizers_in(base: str) -> tuple[str, ...]:
    """The names of the models below a folder that are tokenizers."""
    found = []
    for name in model_names(base):
        newest = next(iter(versions(os.path.join(base, name)).values()))
        metadata = Metadata.read(newest)
        if metadata and metadata.kind == "tokenizer":
            found.append(name)
    return tuple(found) or (_TOKENIZER,)


async def _serve(
    connect: Callable[[], AsyncClient],
    tokenizers: Sequence[str],
    host: str,
    port: int,
    *,
    local: bool,
    opens: bool,
) -> None:
    from aiohttp import web

    from serving.demo.app import application

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with connect() as client:
        # With cancellation: what a page that is closed had asked for does not run on.
        runner = web.AppRunner(
            application(client, tokenizers, local=local),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            address = f"http://{ports.bracketed(host)}:{runner.addresses[0][1]}"
            click.echo(f"demo at {address}")
            if opens:
                webbrowser.open(address)
            await stop.wait()
        finally:
            await runner.cleanup()


COMMANDS = (demo,)
