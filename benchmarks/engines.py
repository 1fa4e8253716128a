"""Passes and time of drawing images from a trained model: `python -m benchmarks.engines runs/digits`.

How many passes Jacobi iteration saves depends on the model, and what a pass costs on the device. Both are
measured here: the images of the run's newest checkpoint, drawn one place after the other, with several
numbers of slots, and by XLA. All ways alternate in one process, since a shared machine's speed drifts; their
tokens are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks.ablations import configured
from serving.export.sampling_params import BatchSamplingParams, SamplingRequest
from trainers.vim.config import Model
from trainers.vim.config import Sampler as Options
from trainers.vim.model import VIM
from trainers.vim.sampler import CompiledSampler, Drawn, Program, Sampler

SEQUENTIAL = "sequential"
WAYS: Mapping[str, tuple[type[Sampler | CompiledSampler], Options]] = {
    SEQUENTIAL: (Sampler, Options(engine="sequential")),
    **{f"jacobi, {slots} slots": (Sampler, Options(jacobi_slots=slots)) for slots in (8, 16, 32)},
    "XLA, sequential": (CompiledSampler, Options(engine="sequential")),
    **{f"XLA, jacobi, {slots} slots": (CompiledSampler, Options(compiled_slots=slots)) for slots in (8, 16)},
}


class Timed(NamedTuple):
    """Images that were drawn together.

    Attributes:
      seconds: of the call.
      drawn: their tokens and passes.
    """

    seconds: float
    drawn: Drawn


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--preset", default="digits", show_default=True, help="That of the run.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Those of the run; repeatable.")
@click.option("--batch", type=click.IntRange(1), multiple=True, default=(1, 4, 16), show_default=True)
@click.option("--images", default=16, show_default=True, help="Drawn each way, in batches.")
@click.option("--guidance-scale", default=1.0, show_default=True)
def main(
    run: Path,
    preset: str,
    overrides: tuple[str, ...],
    batch: tuple[int, ...],
    images: int,
    guidance_scale: float,
) -> None:
    """Draw images of a run's image model with each engine."""
    model, checkpoint = restored(run, configured(preset, overrides, small=False).stage2.model)
    table = Table("images", "engine", "passes", "ms a pass", "first / last image, ms", "images/s", "others")
    for together in batch:
        firsts = range(0, max(images, together), together)
        ways = {
            name: drawing(model, *way, images=together, guidance_scale=guidance_scale)
            for name, way in WAYS.items()
        }
        timed: dict[str, list[Timed]] = {name: [] for name in ways}
        for first in (firsts[0], *firsts):
            for name, draw in ways.items():
                begin = time.perf_counter()
                drawn = tf.nest.map_structure(np.asarray, draw(tf.constant(first)))
                timed[name].append(Timed(time.perf_counter() - begin, drawn))
        wanted = timed[SEQUENTIAL][1:]
        for name, calls in timed.items():
            # The first call traces.
            table.add_row(str(together), name, *_row(calls[1:], wanted))
    table.caption = f"{checkpoint}: {model.tokens} tokens of {model.codebook_size} codes"
    Console(width=120).print(table)


def restored(run: Path, options: Model) -> tuple[VIM, str]:
    """The image model of a run's newest checkpoint, without an EMA, and the checkpoint's name.

    Raises:
      click.ClickException: there is none, or one of another model.
    """
    found = list(run.glob("checkpoints/vim/*/ckpt-*.index"))
    if not found:
        raise click.ClickException(f"{run} must hold checkpoints of an image model, got none")
    index = max(found, key=lambda path: path.stat().st_mtime)
    values = tf.train.load_checkpoint(str(index.with_suffix("")))

    def value(number: int) -> np.ndarray:
        return values.get_tensor(f"vim/{number}/.ATTRIBUTES/VARIABLE_VALUE")

    codes, starts, tokens = (len(value(number)) for number in range(3))
    model = VIM(options, tokens=tokens, codebook_size=codes, classes=starts - 1)
    try:
        for number, variable in enumerate(model.variables):
            variable.assign(value(number))
    except (ValueError, tf.errors.NotFoundError) as error:
        raise click.ClickException(
            f"--preset and --set must be those of {run}, got an image model of another size"
        ) from error
    return model, index.stem


def drawing(
    model: VIM,
    kind: type[Sampler | CompiledSampler],
    options: Options,
    *,
    images: int,
    guidance_scale: float,
) -> Callable[[tf.Tensor], Drawn]:
    """Return a function from the first seed to images of all classes in turn."""
    compiled = kind is CompiledSampler
    program = Program(guided=guidance_scale != 1.0)
    sampler = CompiledSampler(model, program, options) if compiled else Sampler(model, options)

    @tf.function(autograph=False, jit_compile=compiled, input_signature=[tf.TensorSpec([], tf.int32)])
    def draw(first: tf.Tensor) -> Drawn:
        one, none = tf.ones([images]), tf.zeros([images], tf.int32)
        numbers = first + tf.range(images)
        scale = guidance_scale * one
        return sampler(
            SamplingRequest(
                class_id=numbers % max(model.classes, 1),
                seed=tf.cast(numbers, tf.int64),
                params=BatchSamplingParams(one, none, one, scale, scale),
                prompt=tf.zeros([images, model.tokens], tf.int32),
                prompt_length=none,
            )
        )

    return draw


def _row(calls: Sequence[Timed], wanted: Sequence[Timed]) -> Sequence[str]:
    passes = np.stack([call.drawn.passes for call in calls])
    seconds = statistics.median(call.seconds for call in calls)
    a_pass = statistics.median(call.seconds / np.max(call.drawn.passes) for call in calls)
    first, last = (1000 * a_pass * np.mean(each(passes, axis=1)) for each in (np.min, np.max))
    others = sum(
        int(np.sum(np.any(call.drawn.tokens != plain.drawn.tokens, axis=1)))
        for call, plain in zip(calls, wanted, strict=True)
    )
    return (
        f"{np.mean(passes):.1f}",
        f"{1000 * a_pass:.2f}",
        f"{first:.0f} / {last:.0f}",
        f"{passes.shape[1] / seconds:.2f}",
        str(others),
    )


if __name__ == "__main__":
    main()
