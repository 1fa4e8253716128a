"""The command line `tfx-vim`.

The exit code is 0 only on success, 1 if something failed, 2 for bad usage or configuration. An error is one
line on standard error; `--debug` shows its traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from serving.cli.commands import COMMANDS
from serving.cli.files import check_output
from serving.cli.options import RUN
from serving.export.atomic import atomic_path
from serving.wire.errors import ServingError, one_line
from tfx_pipeline import config as configuration
from tfx_pipeline import console, preflight
from tfx_pipeline.config import Config, ConfigError, ImportedTokenizer
from tfx_pipeline.kubeflow import checks
from tfx_pipeline.run_lock import RunningError

_ONLY_THERE = "if only the cluster can read it, name its version with"


class DebuggableGroup(click.Group):
    """A group whose commands all take `--debug`."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command with the option."""
        cmd.params.append(
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks and logs.")
        )
        super().add_command(cmd, name)


@click.group(cls=DebuggableGroup, context_settings={"show_default": True, "max_content_width": 100})
@click.version_option(package_name="tfx-vim", prog_name="tfx-vim", message="%(prog)s %(version)s")
def cli() -> None:
    """From a collection of images to a served image tokenizer and image model."""


def _configured(command: Any) -> Any:
    """Add the options that choose a configuration."""
    for option in (
        click.option("--small", is_flag=True, help="Shrink the preset to a few steps of tiny models."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override; repeatable."),
        click.option("--preset", default="digits", help="Name of a preset, or a .yaml file."),
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def _one_line(*errors: type[Exception]) -> Iterator[None]:
    """Errors whose message is one line for the user."""
    try:
        yield
    except errors as error:
        raise click.ClickException(str(error)) from error


@cli.command()
@_configured
@click.option("--output", metavar="DIR", help="Folder of the run.  [default: runs/PRESET]")
@click.option("--beam", "beam_args", multiple=True, metavar="FLAG", help="A flag for Beam; repeatable.")
@click.option(
    "--no-cache",
    multiple=True,
    is_flag=False,
    flag_value="ALL",
    metavar="[COMPONENT]",
    help="Run a component, or all, whatever the cache has; repeatable.",
)
def run(
    preset: str,
    overrides: tuple[str, ...],
    small: bool,
    output: str | None,
    beam_args: tuple[str, ...],
    no_cache: tuple[str, ...],
) -> None:
    """Run the pipeline on this machine, from images to evaluated and pushed models."""
    config = configuration.load(preset, overrides, small=small)
    directory = output or os.path.join("runs", config.name)
    with _one_line(preflight.RunError, RunningError):
        preflight.check_run(config, Path(os.path.realpath(directory)), beam_args)
    from components.image_example_gen.sources import SourceError
    from components.tokenizer_importer.saved_tokenizer import TokenizerError
    from tfx_pipeline import local_runner
    from tfx_pipeline.lineage import LineageError

    try:
        with _one_line(SourceError, TokenizerError, RunningError, LineageError, preflight.RunError):
            finished = local_runner.run(config, directory, beam_args, no_cache=no_cache)
    except local_runner.Stopped as stop:
        click.echo(f"tfx-vim: {stop}", err=True)
        sys.exit(stop.exit_code)
    _summarize(finished.metrics, directory)


@cli.command()
@click.argument("source")
@_configured
@click.option("--verify", is_flag=True, help="Decode every image; else headers only are read.")
@click.option("--sheet", metavar="FILE.png", help="Draw a few images of each class as a model sees them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def data(
    source: str,
    preset: str,
    overrides: tuple[str, ...],
    small: bool,
    verify: bool,
    sheet: str | None,
    as_json: bool,
) -> None:
    """Show what a run would read of SOURCE, as for `data.source`; exit with 1 if it would refuse it."""
    given = f"data.source={json.dumps(source)}"
    whole = configuration.load(preset, (*overrides, given), small=small)
    config = whole.data
    if sheet:
        check_output(Path(sheet), (".png",))
    if not as_json:  # which names the same as a problem
        with _one_line(preflight.RunError):
            preflight.check_inputs(whole, tokenizer=False)
    from components.image_example_gen import summary
    from components.image_example_gen.survey import survey

    with console.counting("images") as progress:
        found, samples = survey(config.reading, verify=verify, progress=progress)
    if sheet and samples:
        with atomic_path(sheet) as draft:
            summary.sheet(samples, config.image_size, config.ground).save(draft)
    if as_json:
        click.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        click.echo("\n".join(summary.lines(found)))
    if found.problems:
        sys.exit(1)


@cli.command("compile")
@_configured
@click.option("--image", required=True, metavar="REPO:TAG", help="Container image of every component.")
@click.option("--output", required=True, metavar="FILE.yaml", help="Where to write the PipelineSpec.")
@click.option(
    "--run",
    "run_dir",
    metavar="URI",
    help="Folder of all runs that name no other one.  [default: each run's own, beside its artifacts]",
)
@click.option(
    "--pipeline-root", metavar="URI", help="Folder of the artifacts.  [default: the installation's]"
)
@click.option(
    "--dataset-version",
    metavar="TEXT",
    help="Version of images that only the cluster can read; a new one makes it read them again.",
)
@click.option("--tokenizer-version", metavar="TEXT", help="Likewise, of an imported tokenizer.")
@click.option("--beam", "beam_args", multiple=True, metavar="FLAG", help="A flag for Beam; repeatable.")
def compile_(
    preset: str,
    overrides: tuple[str, ...],
    small: bool,
    image: str,
    output: str,
    run_dir: str | None,
    pipeline_root: str | None,
    dataset_version: str | None,
    tokenizer_version: str | None,
    beam_args: tuple[str, ...],
) -> None:
    """Compile the pipeline for Kubeflow Pipelines v2."""
    config = configuration.load(preset, overrides, small=small)
    # Before TFX is imported, which takes seconds.
    checks.check_arguments(image, output, run=run_dir, pipeline_root=pipeline_root)
    checks.check_beam(config.beam.all_flags(beam_args))
    try:
        preflight.check_inputs(config, source=not dataset_version, tokenizer=not tokenizer_version)
    except preflight.RunError as error:
        raise click.ClickException(
            f"{error}; {_ONLY_THERE} --dataset-version or --tokenizer-version"
        ) from error
    from components.image_example_gen.sources import SourceError, source_version
    from components.tokenizer_importer.saved_tokenizer import TokenizerError
    from tfx_pipeline import pipeline
    from tfx_pipeline.kubeflow import compiler, parameters

    try:
        version = dataset_version or source_version(config.data.source, config.data.options)
    except SourceError as error:
        raise click.ClickException(f"{error}; {_ONLY_THERE} --dataset-version") from error
    try:
        imported = tokenizer_version or pipeline.imported_version(config)
    except TokenizerError as error:
        raise click.ClickException(f"{error}; {_ONLY_THERE} --tokenizer-version") from error
    graph = pipeline.create_pipeline(
        config.with_seed(parameters.STAND_INS[parameters.SEED]),
        run_dir=parameters.STAND_INS[parameters.RUN_FOLDER],
        serving_dir=parameters.STAND_INS[parameters.SERVING_FOLDER],
        dataset_version=parameters.STAND_INS[parameters.DATASET_VERSION],
        tokenizer_version=imported,
        beam_pipeline_args=beam_args,
    )
    defaults: dict[str, str | int] = {
        parameters.RUN_FOLDER: run_dir or "",
        parameters.SERVING_FOLDER: "",
        parameters.DATASET_VERSION: version,
        parameters.SEED: config.seed,
    }
    compiler.compile_pipeline(
        graph, image, output, defaults=defaults, pods=config.platform, pipeline_root=pipeline_root
    )
    click.echo(f"{output}: pipeline {graph.pipeline_info.pipeline_name}, {len(graph.components)} tasks")


@cli.command()
@click.argument("file", metavar="FILE.yaml", type=click.Path(path_type=Path))
@click.option(
    "--host", required=True, metavar="URL", help="The Pipelines API, such as http://localhost:8080."
)
@click.option("--experiment", default="tfx-vim", help="The experiment that the run belongs to.")
@click.option("--name", metavar="TEXT", help="Of the run.  [default: the file's and the time]")
@click.option("--parameter", "given", multiple=True, metavar="NAME=VALUE", help="Of the run; repeatable.")
@click.option("--namespace", metavar="NAME", help="Of a user, on a multi-user installation.")
@click.option("--service-account", metavar="NAME", help="Of the run's pods.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Holds a bearer token.")
@click.option("--cookies-file", type=click.Path(path_type=Path), help="Holds cookies of a login.")
@click.option("--wait", is_flag=True, help="Follow the run; exit with 1 if it fails.")
def submit(
    file: Path,
    host: str,
    experiment: str,
    name: str | None,
    given: tuple[str, ...],
    namespace: str | None,
    service_account: str | None,
    token_file: Path | None,
    cookies_file: Path | None,
    wait: bool,
) -> None:
    """Start a run of a compiled pipeline on Kubeflow, and print its link."""
    from tfx_pipeline.kubeflow import submit as submitting

    token, cookies = (path.read_text().strip() if path else None for path in (token_file, cookies_file))
    with _one_line(submitting.SubmitError):
        compiled = submitting.read(file)
        parameters = submitting.parse_parameters(compiled, given)
        client = submitting.connect(host, token=token, cookies=cookies)
        run = submitting.submit(
            client,
            host,
            compiled,
            parameters,
            experiment=experiment,
            name=name,
            namespace=namespace,
            service_account=service_account,
        )
        click.echo(run.link)
        if not wait:
            return
        state = submitting.follow(client, run, compiled.tasks, click.echo)
    if state != "SUCCEEDED":
        raise click.ClickException(f"the run must succeed, got {state}: {run.link}")


@cli.command()
def presets() -> None:
    """List the presets."""
    names = configuration.presets()
    width = max(map(len, names))
    for name in names:
        first = (configuration.PRESETS / f"{name}.yaml").read_text().partition("\n")[0]
        click.echo(f"{name:<{width}}  {first.lstrip('# ')}")


@cli.command("config")
@_configured
def config_(preset: str, overrides: tuple[str, ...], small: bool) -> None:
    """Print the whole configuration of a run."""
    loaded: Config = configuration.load(preset, overrides, small=small)
    click.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False), nl=False)


@cli.command()
@_configured
@click.option(
    "--device", type=click.Choice(["cpu"]), help="This machine: its rate is measured, its memory known."
)
@click.option("--devices", default=1, type=click.IntRange(1), help="Devices that share the batch.")
@click.option(
    "--device-tflops",
    default=275.0,
    type=click.FloatRange(0, min_open=True),
    help="Peak rate of a device in TFLOP/s; the default is a TPU v4's in bfloat16.",
)
@click.option(
    "--utilization",
    default=0.4,
    type=click.FloatRange(0, 1, min_open=True),
    help="Fraction of the peak rate that is reached.",
)
@click.option(
    "--device-memory",
    type=click.FloatRange(0, min_open=True),
    metavar="GB",
    help="Memory of a device in GB (16 GiB are 17.2); prints whether each stage fits.",
)
@click.option(
    "--image-bytes", type=click.IntRange(1), help="Mean size of an encoded image.  [default: 2 per pixel]"
)
@click.option(
    "--images",
    default=1_281_167,
    type=click.IntRange(1),
    show_default=True,
    help="Training images, for the cost of the linear probe; the default is ImageNet's.",
)
def plan(
    preset: str,
    overrides: tuple[str, ...],
    small: bool,
    device: str | None,
    devices: int,
    device_tflops: float,
    utilization: float,
    device_memory: float | None,
    image_bytes: int | None,
    images: int,
) -> None:
    """Print the cost of training: parameters, FLOPs, memory, data and time."""
    config = configuration.load(preset, overrides, small=small)
    with _one_line(preflight.RunError):
        preflight.check_inputs(config, source=False)
    from rich.console import Console

    from tfx_pipeline import plan as plans
    from tfx_pipeline import probe_plan

    memory = device_memory * 1e9 if device_memory else None
    machine = plans.Devices(devices, device_tflops, utilization, memory)
    if device:
        _check_not_given("device-tflops", "utilization", "device-memory", "devices")
        machine = plans.Devices.this_cpu()
    imported = isinstance(config.stage1, ImportedTokenizer)
    trained = [*([] if imported else [plans.stage_1]), plans.classifier, plans.stage_2]
    stages = [stage(config, machine, image_bytes=image_bytes) for stage in trained]
    console = Console(highlight=False)
    for stage in stages:
        plans.show(stage, console)
    probe_plan.show(probe_plan.linear_probe(config, images=images), machine, console)


def _check_not_given(*names: str) -> None:
    """Refuse options that contradict --device."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name.replace("-", "_")) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--device or --{name} must be given, got both")


@cli.command()
@click.option("--run", "directory", default=RUN, metavar="DIR", help="Folder of the run.")
def report(directory: str) -> None:
    """Render a run's report again from its folder."""
    if not Path(directory, "report", "report.json").is_file():
        raise click.ClickException(
            f"{directory} must hold a report; `tfx-vim run --output {directory}` writes one"
        )
    from components.run_report import folder

    try:
        folder.write(directory, folder.read(directory))
    except folder.ReportError as error:
        raise click.ClickException(f"{error}; `tfx-vim run --output {directory}` writes it anew") from error
    click.echo(os.path.join(directory, "report", "index.html"))


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--output", metavar="FILE.html", help="Write a page with pictures too.")
def compare(runs: tuple[str, ...], output: str | None) -> None:
    """Show how runs differ: settings, scores, pictures. RUN is a run's folder or one of its history."""
    if len(runs) < 2:
        raise click.UsageError(f"RUN must be two folders or more, got {runs[0]}")
    if output:
        check_output(Path(output), (".html",))
    for directory in runs:
        if not Path(directory, "report", "report.json").is_file():
            raise click.ClickException(f"RUN must be the folder of a finished run, got {directory}")
    from components.run_report import comparison, folder
    from serving.export.atomic import write_atomic

    try:
        reports = [folder.read(directory) for directory in runs]
    except folder.ReportError as error:
        raise click.ClickException(str(error)) from error
    click.echo(comparison.text(runs, reports))
    if output:
        write_atomic(output, comparison.page(runs, reports))
        click.echo(output, err=True)


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line and turn every error into one line and an exit code."""
    debug = "--debug" in sys.argv[1:]
    if not debug:
        console.quiet()
    try:
        cli.main(standalone_mode=False)
    except (click.UsageError, ConfigError) as error:
        _stop(error, 2, debug)
    except click.Abort:
        sys.exit(130)
    except (click.ClickException, ServingError, OSError) as error:
        _stop(error, 1, debug)
    except Exception as error:  # a bug of ours, or an error of TensorFlow that nobody has met
        if debug:
            raise
        reason = " ".join(one_line(error).split())
        click.echo(f"tfx-vim: {type(error).__name__}: {reason}; --debug shows where", err=True)
        sys.exit(1)


def _stop(error: Exception, code: int, debug: bool) -> None:
    if debug:
        raise error
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    click.echo(f"tfx-vim: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _summarize(metrics: dict[str, Any], directory: str) -> None:
    """Print how the run went and where its results are."""
    reconstruction, generation = metrics["reconstruction"], metrics["generation"]
    probe = metrics["linear_probe"]
    for name, scores in (("tokenizer", reconstruction), ("image model", generation)):
        missed = "; ".join(failed["reason"] for failed in scores["failed_thresholds"])
        click.echo(f"{name}: " + ("blessed and pushed" if scores["blessed"] else f"NOT blessed: {missed}"))
    shown = {
        "psnr": reconstruction.get("psnr"),
        "codebook_usage": reconstruction.get("codebook_usage"),
        "fid": generation.get("fid"),
        "class_accuracy": generation.get("class_accuracy"),
        "probe top1": probe.get("top1"),
    }
    click.echo("  ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None))
    click.echo(f"report: {os.path.join(directory, 'report', 'index.html')}")


if __name__ == "__main__":
    main()
