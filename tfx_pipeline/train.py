"""One training of the pipeline outside of it, on this host or as one of several: `tfx-vim train`.

It reads and writes what the pipeline's Trainer does. A run with the same folder, configuration, code and
images finds the finished training among its checkpoints, and only exports it.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import click

from tfx_pipeline import config as configuration
from tfx_pipeline.config import Config, ConfigError
from tfx_pipeline.options import configured, one_line_errors

# Under which Kubernetes tells an indexed job's pod its number.
INDEX = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True)
class Arguments:
    """What TFX's Trainer gives to a `run_fn`."""

    custom_config: dict[str, str]
    train_files: list[str]
    eval_files: list[str]
    base_model: str | None
    serving_model_dir: str
    model_run_dir: str


def train(
    config: Config,
    name: str,
    *,
    examples: str,
    base_model: str | None,
    run: str,
    output: str,
    code_version: str = "",
) -> None:
    """Train a part of a run, and export it to `output`/model, with its history in `output`/model_run.

    Args:
      config: the run's configuration.
      name: one of `trainings.TRAININGS`.
      examples: the artifact that is trained on: images, or tokens for `vim` with cached tokens.
      base_model: the tokenizer's SavedModel, for `vim`.
      run: the run's folder, for checkpoints and logs.
      output: a folder; only the first of several hosts writes to it.
      code_version: see `trainings.custom_config`.

    Raises:
      ConfigError: the configuration has no such training, or what it reads is not there.
    """
    import tensorflow as tf

    from components.dataset import DATASET
    from tfx_pipeline import trainings

    if name not in trainings.of(config):
        raise ConfigError(f"NAME must be one of {', '.join(trainings.of(config))}, got {name}")
    if not tf.io.gfile.exists(os.path.join(examples, DATASET)):
        raise ConfigError(f"--examples must be an artifact with {DATASET}, got {examples}")
    if base_model and not tf.saved_model.contains_saved_model(base_model):
        raise ConfigError(f"--tokenizer must be the folder of a SavedModel, got {base_model}")
    arguments = Arguments(
        custom_config=trainings.custom_config(config, name, run, code_version),
        train_files=[os.path.join(examples, "Split-train", "*")],
        eval_files=[os.path.join(examples, "Split-eval", "*")],
        base_model=base_model,
        serving_model_dir=os.path.join(output, "model"),
        model_run_dir=os.path.join(output, "model_run"),
    )
    importlib.import_module(trainings.TRAININGS[name].module).run_fn(arguments)


def join(workers: Sequence[str], index: int | None) -> None:
    """Make this process one of several, in TF_CONFIG; to be called before TensorFlow is imported.

    Raises:
      ConfigError: `index` is not the number of one of `workers`.
    """
    if index is None or not 0 <= index < len(workers):
        raise ConfigError(f"--worker-index must be in [0, {len(workers)}), got {index}")
    cluster = {"cluster": {"worker": list(workers)}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)


@click.command("train")
@click.argument("name", metavar="NAME", type=click.Choice(["tokenizer", "classifier", "vim"]))
@configured
@click.option(
    "--examples", required=True, envvar="TFX_VIM_EXAMPLES", metavar="URI", help="Artifact with them."
)
@click.option("--tokenizer", envvar="TFX_VIM_TOKENIZER", metavar="URI", help="Its SavedModel, for vim.")
@click.option("--run", required=True, metavar="URI", help="Folder of the run: checkpoints and logs.")
@click.option("--output", required=True, metavar="URI", help="Folder for model and history.")
@click.option("--workers", metavar="HOST:PORT,...", help="All hosts that train together.")
@click.option(
    "--code",
    "code_version",
    default="",
    help="Fingerprint that a compiled pipeline's checkpoints have.  [default: this code's]",
)
@click.option("--worker-index", type=int, envvar=INDEX, help="Which of them this is, from 0 on.")
def command(
    name: str,
    preset: str,
    overrides: tuple[str, ...],
    small: bool,
    examples: str,
    tokenizer: str | None,
    run: str,
    output: str,
    workers: str | None,
    code_version: str,
    worker_index: int | None,
) -> None:
    """Train NAME (tokenizer, classifier or vim) on artifacts of a run, on this host or several."""
    config = configuration.load(preset, overrides, small=small)
    if (name == "vim") != bool(tokenizer):
        raise click.UsageError(f"--tokenizer must be given for vim alone, got {tokenizer} for {name}")
    if workers:
        join(workers.split(","), worker_index)
    from serving.export.records import DamagedFile
    from trainers.training.errors import TrainingError

    with one_line_errors(TrainingError, DamagedFile):
        train(
            config,
            name,
            examples=examples,
            base_model=tokenizer,
            run=run,
            output=output,
            code_version=code_version,
        )
