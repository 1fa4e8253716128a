"""The command `evaluate`: scores of a folder of images against another, without a pipeline."""

from __future__ import annotations

import dataclasses
import datetime
from importlib import metadata
from typing import Any

import click

from components.evaluators.network_names import FORMS

# The libraries whose versions change scores.
_LIBRARIES = ("tfx-vim", "tensorflow", "numpy", "scipy", "pillow")


@click.command(context_settings={"show_default": True})
@click.argument("samples")
@click.argument("reference")
@click.option(
    "--features",
    required=True,
    metavar="NETWORK",
    help=f"One of {FORMS}.",
)
@click.option(
    "--image-size", type=click.IntRange(1), help="Crop and resize all images.  [default: as they are]"
)
@click.option("--batch-size", type=click.IntRange(1), default=64, help="Images in one call of the network.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of KID's subsets.")
@click.option("--output", metavar="FILE", help="Also write scores and protocol as JSON.")
@click.option("--save-statistics", metavar="FILE", help="Write REFERENCE as an .npz with mu and sigma.")
def evaluate(
    samples: str,
    reference: str,
    features: str,
    image_size: int | None,
    batch_size: int,
    seed: int,
    output: str | None,
    save_statistics: str | None,
) -> None:
    """Compare SAMPLES with REFERENCE: FID, KID, precision, recall, density, coverage, IS.

    Each is a folder of images or an .npz with `arr_0`; REFERENCE may be an .npz with `mu` and `sigma`, which
    give FID alone.
    """
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
        click.echo(f"{name:10} {score:.6g}")
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    if output:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        result: dict[str, Any] = {**dataclasses.asdict(found), "versions": _versions(), "date": now}
        files.write_json(output, result)


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _LIBRARIES}
