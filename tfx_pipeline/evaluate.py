"""The command `evaluate`: scores without a pipeline, of two sets of images or of variants of a run."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from components.evaluators.network_names import FORMS
from tfx_pipeline.options import one_line_errors

# The libraries whose versions change scores.
_LIBRARIES = ("tfx-vim", "tensorflow", "onnxruntime", "numpy", "scipy", "pillow")


@click.command(context_settings={"show_default": True})
@click.argument("samples", required=False)
@click.argument("reference", required=False)
@click.option(
    "--features",
    metavar="NETWORK",
    help=f"One of {FORMS}.  [with --run, the run's]",
)
@click.option(
    "--image-size", type=click.IntRange(1), help="Crop and resize all images.  [default: as they are]"
)
@click.option("--batch-size", type=click.IntRange(1), default=64, help="Images in one call of the network.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of random subsets.")
@click.option("--output", metavar="FILE", help="Also write scores and protocol as JSON.")
@click.option("--save-statistics", metavar="FILE", help="Write REFERENCE as an .npz with mu and sigma.")
@click.option("--run", "run_dir", metavar="DIR", help="Score variants of sampling from this run instead.")
@click.option(
    "--sweep",
    "swept",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="With --run: values of temperature, top_k, top_p, guidance_scale, guidance_schedule, seed or "
    "acceptance; repeatable, for all combinations.",
)
@click.option("--count", type=click.IntRange(1), help="With --run: samples of each.  [default: the run's]")
def evaluate(
    samples: str | None,
    reference: str | None,
    features: str | None,
    image_size: int | None,
    batch_size: int,
    seed: int,
    output: str | None,
    save_statistics: str | None,
    run_dir: str | None,
    swept: tuple[str, ...],
    count: int | None,
) -> None:
    """Compare SAMPLES with REFERENCE: FID, KID, CMMD, precision, recall, density, coverage, IS.

    Each is a folder of images or an .npz with `arr_0`; REFERENCE may be an .npz with `mu` and `sigma`, which
    give FID alone. With --run and --sweep, variants of sampling are drawn from a finished run and scored as
    its own evaluation was.
    """
    if run_dir:
        if samples:
            raise click.UsageError("SAMPLES and REFERENCE or --run must be given, got both")
        _refuse_others()
        _sweep(Path(run_dir), swept, features, count, output)
        return
    if swept or count:
        raise click.UsageError("--sweep and --count must be given with --run")
    if not samples or not reference:
        raise click.UsageError("SAMPLES and REFERENCE must be given, or --run")
    if not features:
        raise click.UsageError("Missing option '--features'")
    _compare(samples, reference, features, image_size, batch_size, seed, output, save_statistics)


def _refuse_others() -> None:
    """Refuse options of two sets of images where a run is given."""
    context = click.get_current_context()
    for name in ("image_size", "batch_size", "seed", "save_statistics"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} must be given with SAMPLES and REFERENCE; a run has its own")


def _sweep(
    home: Path, swept: Sequence[str], features: str | None, count: int | None, output: str | None
) -> None:
    from components.evaluators import files, networks
    from components.evaluators.network_names import ProtocolError
    from components.run_report.folder import ReportError
    from tfx_pipeline import failures, sweep
    from tfx_pipeline.lineage import LineageError
    from tfx_pipeline.run_lock import RunningError

    with one_line_errors(sweep.SweepError, ProtocolError, LineageError, ReportError, RunningError):
        run = sweep.open_run(home)
        network = features or run.config.evaluation.features
        wanted = sweep.variants(run.config, swept)
        networks.check(network, "", run.config.data.image_size)
        rows = []
        for one in wanted:
            samples = count or run.config.evaluation.generation.samples
            try:
                evaluation = sweep.score(run, one, samples=samples, features=network)
            # Beam makes an error of its own kind of whatever a worker raises.
            except Exception as error:
                raise click.ClickException(failures.reason(error)) from error
            rows.append((one, evaluation))
            if output:
                files.write_json(output, [{**variant.values, **scored} for variant, scored in rows])
        click.echo("\n".join(sweep.table(rows)))
        if swept:
            click.echo(sweep.report(run, rows))


def _compare(
    samples: str,
    reference: str,
    features: str,
    image_size: int | None,
    batch_size: int,
    seed: int,
    output: str | None,
    save_statistics: str | None,
) -> None:
    if save_statistics and not save_statistics.endswith(".npz"):
        raise click.UsageError(f"--save-statistics must end in .npz, got {save_statistics}")
    # Which import TensorFlow, that a wrong option need not wait for.
    from components.evaluators import comparison, files
    from components.evaluators.image_sets import ImageSetError
    from components.evaluators.network_names import ProtocolError
    from components.evaluators.protocols import open_protocol

    try:
        network = open_protocol(features)
        real = comparison.read_reference(reference, network, image_size, batch_size)
        if save_statistics:
            comparison.write_statistics(save_statistics, real, network)
        found = comparison.compare(
            samples, real, network, image_size=image_size, batch_size=batch_size, seed=seed
        )
    except (ProtocolError, ImageSetError) as error:
        raise click.ClickException(str(error)) from error
    for name, score in found.scores.items():
        ends = [f"{end:.4g}" for end in found.intervals.get(name, ()) if math.isfinite(end)]
        click.echo(f"{name:12} {score:<12.6g} {' to '.join(ends)}".rstrip())
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    if output:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        result: dict[str, Any] = {**dataclasses.asdict(found), "versions": _versions(), "date": now}
        files.write_json(output, result)


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _LIBRARIES}
