"""Commands of those who run a server: serve, promote, rollback.

What needs TensorFlow is imported by the command that runs, so that `--help` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from serving.cli import options
from serving.export.versions import model_names, no_model
from serving.server import ports

if TYPE_CHECKING:
    from serving.server.promotion import Moved


@click.command(context_settings=options.SHOW_DEFAULTS)
@click.option("--run", "run_dir", default=options.RUN, metavar="DIR", help="The run to serve.")
@click.option(
    "--model-config-file", type=options.FILE, help="TF Serving's, in place of --run; it may change."
)
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 accepts other machines.")
@click.option("--token-file", type=options.FILE, help="A bearer token that every request must carry.")
@click.option("--ssl-config-file", type=options.FILE, help="TF Serving's: key, certificate, mTLS.")
@click.option("--insecure", is_flag=True, help="Let other machines ask without a token or mTLS.")
@click.option(
    "--request-log", type=click.File("a"), metavar="FILE", help="A line of JSON a request; - is stdout."
)
@click.option("--max-image-pixels", type=click.IntRange(1), default=2**25, help="Larger images are refused.")
@click.option("--grace", type=click.FloatRange(0), default=15.0, help="Seconds for what runs at the end.")
@click.option("--port", type=options.PORT, default=8500, help="gRPC; 0 picks a free one.")
@click.option("--rest-api-port", type=options.PORT, default=8501, help="REST; 0 picks a free one.")
@click.option(
    "--grpc-channel-arguments",
    metavar="NAME=VALUE,...",
    callback=lambda context, option, value: _channel_arguments(value),
    help="Of gRPC, such as grpc.max_connection_age_ms=60000.",
)
@click.option("--request-seconds", type=options.SECONDS, default=120.0, help="Time limit of a request.")
@click.option(
    "--enable-batching/--no-enable-batching", default=True, help="Rows of different requests share a call."
)
@click.option("--batching-parameters-file", metavar="FILE", help="TF Serving's: sizes, times, threads.")
@click.option(
    "--file-system-poll-wait-seconds",
    type=options.SECONDS,
    default=2.0,
    help="Between looks at versions.",
)
@click.option(
    "--max-num-load-retries", type=click.IntRange(0), default=5, help="Of a version that does not load."
)
@click.option(
    "--load-retry-interval-micros", type=click.IntRange(0), default=60_000_000, help="Between them."
)
def serve(
    run_dir: str,
    model_config_file: str | None,
    host: str,
    token_file: str | None,
    ssl_config_file: str | None,
    insecure: bool,
    request_log: TextIO | None,
    max_image_pixels: int,
    grace: float,
    port: int,
    rest_api_port: int,
    grpc_channel_arguments: tuple[tuple[str, int | str], ...],
    request_seconds: float,
    enable_batching: bool,
    batching_parameters_file: str | None,
    file_system_poll_wait_seconds: float,
    max_num_load_retries: int,
    load_retry_interval_micros: int,
) -> None:
    """Serve a run's pushed models over TF Serving's gRPC and REST, until SIGTERM or Ctrl-C."""
    with options.one_line_errors():
        for wanted in (port, rest_api_port):
            ports.check_free(host, wanted)
    if not model_config_file and not model_names(options.serving_folder(run_dir)):
        raise click.ClickException(no_model(options.serving_folder(run_dir)))
    from serving.server import access, batching, model, server

    if batching_parameters_file and not enable_batching:
        raise click.UsageError(
            "--batching-parameters-file must go with --enable-batching, got --no-enable-batching"
        )
    with options.one_line_errors():
        given = batching_parameters_file
        rules = batching.read_parameters(given) if given else batching.Batching(enabled=enable_batching)
        who = access.Access(
            access.read_tls(ssl_config_file) if ssl_config_file else None,
            access.read_token(token_file) if token_file else "",
        )
        access.check_exposure(host, who, insecure)
        chosen = server.Options(
            host=host,
            port=port,
            rest_api_port=rest_api_port,
            poll_seconds=file_system_poll_wait_seconds,
            retries=model.Retries(max_num_load_retries, load_retry_interval_micros / 1e6),
            limits=server.Limits(
                max_image_pixels=max_image_pixels,
                request_seconds=request_seconds,
                grace_seconds=grace,
                batching=rules,
            ),
            access=who,
            request_log=request_log,
            grpc_arguments=grpc_channel_arguments,
        )
        server.serve(model_config_file or options.serving_folder(run_dir), chosen)


def _channel_arguments(given: str | None) -> tuple[tuple[str, int | str], ...]:
    """Parse `name=value,name=value` as TF Serving does: what reads as a whole number is one."""
    found = []
    for part in given.split(",") if given else ():
        name, _, value = part.strip().partition("=")
        if not (name and value):
            raise click.BadParameter(f"must be NAME=VALUE, separated by commas, got {part!r}")
        found.append((name, int(value) if value.lstrip("-").isdecimal() else value))
    return tuple(found)


_config_file = click.option(
    "--model-config-file",
    "config_file",
    required=True,
    type=options.FILE,
    help="What a server follows.",
)


@click.command(context_settings=options.SHOW_DEFAULTS)
@_config_file
@click.option("--label", type=click.Choice(["stable", "canary"]), default="stable", help="Which label moves.")
@click.option(
    "--version", type=click.IntRange(0), help="Where to.  [default: the canary's; for canary the newest]"
)
@click.argument("model")
def promote(config_file: str, label: str, version: int | None, model: str) -> None:
    """Let the label stable or canary of MODEL name a version; servers follow."""
    from serving.server import promotion

    with options.one_line_errors():
        _report_move(model, promotion.promote(config_file, model, label, version))


@click.command(context_settings=options.SHOW_DEFAULTS)
@_config_file
@click.argument("model")
def rollback(config_file: str, model: str) -> None:
    """Let the label stable of MODEL name the version before the last promotion."""
    from serving.server import promotion

    with options.one_line_errors():
        _report_move(model, promotion.rollback(config_file, model))


def _report_move(model: str, moved: Moved) -> None:
    before = "no version" if moved.before is None else moved.before
    click.echo(f"{model}: {moved.label} is {moved.now}, was {before}")


COMMANDS = (serve, promote, rollback)
