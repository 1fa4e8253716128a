"""The command line `tfx-vim`.

The exit code is 0 only on success, 1 if something failed, 2 for bad usage or configuration. An error is one
line on standard error; `--debug` shows its traceback.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import yaml

from serving.cli import commands, operate
from serving.cli.files import check_output
from serving.cli.options import RUN
from serving.demo import command as demo
from serving.export.atomic import atomic_path
from serving.wire.errors import ServingError, one_line
from tfx_pipeline import config as configuration
from tfx_pipeline import console, evaluate, export_samples, preflight, train
from tfx_pipeline.config import Config, ConfigError
from tfx_pipeline.kubeflow import commands as kubeflow
from tfx_pipeline.options import configured, one_line_errors
from tfx_pipeline.run_lock import RunningError


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


@cli.command()
@configured
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
    with one_line_errors(preflight.RunError, RunningError):
        preflight.check_run(config, Path(os.path.realpath(directory)), beam_args)
    from components.classifier_importer.network import ClassifierError
    from components.evaluators.network_names import ProtocolError
    from components.image_example_gen.sources import SourceError
    from components.tokenizer_importer.saved_tokenizer import TokenizerError
    from tfx_pipeline import local_runner
    from tfx_pipeline.lineage import LineageError

    try:
        with one_line_errors(
            SourceError,
            TokenizerError,
            ClassifierError,
            ProtocolError,
            RunningError,
            LineageError,
            preflight.RunError,
        ):
            finished = local_runner.run(config, directory, beam_args, no_cache=no_cache)
    except local_runner.Stopped as stop:
        click.echo(f"tfx-vim: {stop}", err=True)
        sys.exit(stop.exit_code)
    _summarize(finished.metrics, directory)


@cli.command()
@click.argument("source")
@configured
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
        with one_line_errors(preflight.RunError):
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


@cli.command()
def presets() -> None:
    """List the presets."""
    names = configuration.presets()
    width = max(map(len, names))
    for name in names:
        first = (configuration.PRESETS / f"{name}.yaml").read_text().partition("\n")[0]
        click.echo(f"{name:<{width}}  {first.lstrip('# ')}")


@cli.command("config")
@configured
def config_(preset: str, overrides: tuple[str, ...], small: bool) -> None:
    """Print the whole configuration of a run."""
    loaded: Config = configuration.load(preset, overrides, small=small)
    click.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False), nl=False)


@cli.command()
@configured
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
    "--device-bandwidth",
    default=1200.0,
    type=click.FloatRange(0, min_open=True),
    metavar="GB/S",
    help="What a device reads from its memory; the default is a TPU v4's.",
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
    device_bandwidth: float,
    image_bytes: int | None,
    images: int,
) -> None:
    """Print the cost of training: parameters, FLOPs, memory, data and time."""
    config = configuration.load(preset, overrides, small=small)
    with one_line_errors(preflight.RunError):
        preflight.check_inputs(config, source=False)
    from rich.console import Console

    from tfx_pipeline import plan as plans
    from tfx_pipeline import probe_plan, sampling_plan

    memory = device_memory * 1e9 if device_memory else None
    machine = plans.Devices(devices, device_tflops, utilization, memory, device_bandwidth * 1e9)
    if device:
        _check_not_given("device-tflops", "utilization", "device-memory", "device-bandwidth", "devices")
        machine = plans.Devices.this_cpu()
    planned = {"stage1": plans.stage_1, "classifier": plans.classifier, "stage2": plans.stage_2}
    trained = [plan for section, plan in planned.items() if hasattr(getattr(config, section), "train")]
    stages = [stage(config, machine, image_bytes=image_bytes) for stage in trained]
    console = Console(highlight=False)
    for stage in stages:
        plans.show(stage, console)
    sampling_plan.show(sampling_plan.drawing(config), machine, console)
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


for command in (
    train.command,
    export_samples.command,
    evaluate.evaluate,
    *kubeflow.COMMANDS,
    *operate.COMMANDS,
    *demo.COMMANDS,
    *commands.COMMANDS,
):
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
