"""Table 4 at a small size: `python -m benchmarks.ablations --source folder:cifar10`.

Trains a tokenizer for each row of the paper's Table 4, and for two that it does not have, on 32-pixel images,
and prints their held-out scores beside the paper's. Every row starts from the preset
`cifar10` without its help for short runs, the revival of dead codes, because the paper's rows differ in how
many codes die. All rows share one folder: images and classifier are made once, a row that was measured is
read from the cache, and one that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from tfx import v1 as tfx
from tfx.orchestration.pipeline import RunOptions

from components.evaluators import files
from components.image_example_gen.sources import source_version
from tfx_pipeline import lineage
from tfx_pipeline.config import Config, ConfigError, load
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.versions import Versions

EVALUATOR = "ReconstructionEvaluator"
# Metrics and their factors: Table 4 has l1 in 1e-2, l2 in 1e-3 and the usage in percent.
COLUMNS: Mapping[str, float] = {"l1": 100, "l2": 1000, "logit_laplace": 1, "fid": 1, "codebook_usage": 100}


class Row(NamedTuple):
    """One row: what differs from the baseline, and the paper's scores in the order of `COLUMNS`."""

    name: str
    changes: tuple[str, ...]
    paper: tuple[float, ...] | None


def _dim(dim: int, *paper: float) -> Row:
    return Row(f"codes of {dim} dimensions", (f"stage1.model.codebook.dim={dim}",), paper)


ROWS = (
    Row("baseline", (), (3.06, 3.09, -2.54, 1.55, 96)),
    Row(
        "CNN towers",
        (
            "stage1.model.encoder={channels: 32, multipliers: [1, 2, 2], residual_blocks: 2}",
            "stage1.model.decoder={channels: 32, multipliers: [1, 2, 2], residual_blocks: 2}",
        ),
        (3.45, 3.81, -2.36, 2.26, 63),
    ),
    Row(
        "PatchGAN",
        (
            "stage1.adversary.discriminator={network: patchgan, channels: 16, layers: 2}",
            "stage1.adversary.optimizer=null",
            "stage1.adversary.r1_gamma=0",
        ),
        (2.82, 2.58, -2.62, 3.88, 89),
    ),
    _dim(256, 3.60, 4.28, -2.38, 3.68, 4),
    _dim(128, 3.41, 3.93, -2.44, 2.77, 14),
    _dim(64, 3.18, 3.37, -2.49, 2.50, 37),
    _dim(16, 3.00, 2.96, -2.54, 1.50, 95),
    _dim(8, 2.98, 2.92, -2.55, 1.52, 96),
    _dim(4, 3.55, 4.18, -2.37, 3.68, 96),
    Row("no l2 normalization", ("stage1.model.codebook.l2_normalized=false",), (4.13, 5.41, -2.20, 5.44, 2)),
    Row("no logit-laplace", ("stage1.loss.logit_laplace=0",), None),
    Row("no adversary", ("stage1.loss.adversarial=0",), None),
)


@click.command()
@click.option("--source", default="tfds:cifar10", show_default=True, help="Images, as `data.source`.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="runs/ablations",
    show_default=True,
    help="Its folder.",
)
@click.option(
    "--row", "names", multiple=True, type=click.Choice([row.name for row in ROWS]), help="Only this."
)
@click.option("--steps", default=2000, show_default=True, help="Of each tokenizer.")
@click.option(
    "--classifier-steps", default=3000, show_default=True, help="Of the network that FID is taken in."
)
@click.option("--seed", default=0, show_default=True, help="Of weights and batches.")
@click.option("--set", "overrides", multiple=True, help="A key of every row, as for `tfx-vim run`.")
@click.option("--quick", is_flag=True, help="Smoke test: tiny models on the digits, a few steps.")
def main(
    source: str,
    output: Path,
    names: tuple[str, ...],
    steps: int,
    classifier_steps: int,
    seed: int,
    overrides: tuple[str, ...],
    quick: bool,
) -> None:
    """Train the rows of Table 4 and print their scores beside the paper's."""
    length = (
        f"data.source={source}",
        f"stage1.train.steps={steps}",
        f"classifier.train.steps={classifier_steps}",
    )
    common = (
        f"seed={seed}",
        *(() if quick else length),
        # The paper's 32, and its codebook as it is learned: no code is revived, all steps are quantized.
        "stage1.model.codebook.dim=32",
        "stage1.model.codebook.revive_below=0",
        "stage1.model.codebook.continuous_steps=0",
        *overrides,
    )
    rows = [row for row in ROWS if not names or row.name in names]
    configs = [configured("cifar10", (*common, *row.changes), small=quick) for row in rows]
    for line in tabulate((row, measure(config, output)) for row, config in zip(rows, configs, strict=True)):
        click.echo(line)


def configured(preset: str, overrides: Sequence[str], *, small: bool) -> Config:
    """The configuration of a preset with overrides.

    Raises:
      click.UsageError: it is not valid.
    """
    try:
        return load(preset, overrides, small=small)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def measure(config: Config, home: Path) -> dict[str, float]:
    """Train the tokenizer of a configuration, unless that was done, and return its held-out scores."""
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    pipeline = create_pipeline(
        config,
        run_dir=str(home),
        versions=Versions.of(config, source_version(config.data.source, config.data.options)),
        metadata_connection_config=lineage.connection(home / "metadata.db"),
    )
    upstream_only = RunOptions(to_nodes=[EVALUATOR])
    tfx.orchestration.LocalDagRunner().run(pipeline, run_options=upstream_only)
    store = lineage.open_store(home / "metadata.db")
    result = lineage.last_result(store, pipeline.pipeline_info.pipeline_name, EVALUATOR)
    return files.read_json(os.path.join(result.outputs["evaluation"].uri, files.EVALUATION_FILE))["metrics"]


def tabulate(measured: Iterable[tuple[Row, Mapping[str, float]]]) -> Iterator[str]:
    """Lines of a table in Markdown, each score followed by the paper's in brackets."""
    titles = ("row", "l1, 1e-2", "l2, 1e-3", "logit-laplace", "FID", "usage, %")
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row, metrics in measured:
        own = [f"{factor * metrics[name]:.2f}" for name, factor in COLUMNS.items()]
        papers = [f" ({value:g})" for value in row.paper] if row.paper else [""] * len(own)
        yield f"| {' | '.join([row.name, *map(str.__add__, own, papers)])} |"


if __name__ == "__main__":
    main()
