"""How fast the tokenizer encodes, reconstructs and trains: `python -m benchmarks.stage1`.

Images are random numbers, and no data is read: it is the models that are timed. Encoder and decoder run
as they are served, in TensorFlow's graph with an unknown batch size; a training step runs as the preset
says, or as `--jit` or `--no-jit` say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import click
import keras
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks.interleaved import MatrixProduct, Measured, measure
from tfx_pipeline.config import load
from trainers.training.step import training_step
from trainers.vit_vqgan import accounting
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.model import ViTVQGAN
from trainers.vit_vqgan.objective import Objective

# What a served model does: the call, and its cost for one image.
SERVED = {
    "encode": (ViTVQGAN.encode, accounting.encode),
    "reconstruct": (lambda model, pixels: model.decode(model.encode(pixels))[0], accounting.reconstruct),
}

# Weights of the adversarial loss and of R1. R1 is taken on every step here, to see what a step costs that
# takes it; training takes it on one in 16.
STEPS = {
    "step": (0.0, 0.0),
    "step + adversary": (0.1, 0.0),
    "step + adversary + R1": (0.1, 10.0),
}


class Size(NamedTuple):
    """A row of presets' sizes: whose model it is, and how many images a call takes."""

    preset: str
    served: int
    trained: int


# At 256 pixels a preset's batch of 256 images would take hours and more memory than a desktop has.
SIZES = {
    "small": Size("imagenet256_ss_unsupervised", served=4, trained=2),
    "base": Size("imagenet256_bb_unsupervised", served=4, trained=2),
    "cifar10": Size("cifar10", served=64, trained=64),
    "digits": Size("digits", served=64, trained=64),
}


class Work(NamedTuple):
    """Something to be timed: `run` does `flops` FLOPs on `images` images."""

    name: str
    images: int
    compiled: bool
    flops: int
    run: Callable[[], object]


@click.command()
@click.option("--only", type=click.Choice(list(SIZES)), multiple=True, help="This size alone; repeatable.")
@click.option(
    "--work", type=click.Choice([*SERVED, *STEPS]), multiple=True, help="This work alone; repeatable."
)
@click.option(
    "--jit/--no-jit", default=None, help="Compile training steps by XLA or not, whatever presets say."
)
@click.option("--repetitions", default=7, show_default=True, help="Of each measurement; the median counts.")
@click.option("--quick", is_flag=True, help="Tiny models, one repetition: does it run at all?")
def main(
    only: tuple[str, ...], work: tuple[str, ...], jit: bool | None, repetitions: int, quick: bool
) -> None:
    """Times stage 1 against this machine's own float32 matrix product."""
    yardstick = MatrixProduct(256 if quick else 2048)
    table = Table("model", "work", "images", "XLA", "images/s", "s", "share", "share, CPU time")
    rates = []
    for name in only or SIZES:
        size = SIZES[name]
        config = load(size.preset, small=quick)
        stage = config.stage1
        for timed in _works(stage, size, work or (*SERVED, *STEPS), config.data.image_size, jit):
            result = measure(
                timed.run, flops=timed.flops, yardstick=yardstick, repetitions=1 if quick else repetitions
            )
            rates.append(result.rate)
            table.add_row(name, *_row(timed, result))
            click.echo(f"{name}, {timed.name}: {result.share:.0%} ({result.processor_share:.0%})", err=True)
            keras.backend.clear_session()
    table.caption = (
        f"shares of a matrix product's rate, in the median {statistics.median(rates) / 1e9:.0f} GFLOP/s"
    )
    Console(width=110).print(table)


def _row(work: Work, result: Measured) -> list[str]:
    return [
        work.name,
        str(work.images),
        "yes" if work.compiled else "no",
        f"{work.images / result.seconds:.2f}",
        f"{result.seconds:.3f}",
        f"{result.share:.0%}",
        f"{result.processor_share:.0%}",
    ]


def _works(
    stage: Stage1, size: Size, names: Sequence[str], image_size: int, jit: bool | None
) -> Iterator[Work]:
    """One after the other, so that no two sets of weights and slots are in memory at once."""
    for name in names:
        if name in SERVED:
            yield _served(name, stage, size.served, image_size)
        else:
            yield _step(name, stage, size.trained, image_size, jit)


def _served(name: str, stage: Stage1, images: int, image_size: int) -> Work:
    model = ViTVQGAN(stage.model, image_size=image_size, seed=0)
    call, cost = SERVED[name]
    compiled = tf.function(
        lambda pixels: call(model, pixels),
        input_signature=[tf.TensorSpec([None, image_size, image_size, 3])],
    )
    pixels = _pixels(images, image_size)
    flops = images * cost(stage.model, image_size=image_size).flops
    return Work(name, images, False, flops, lambda: compiled(pixels).numpy())


def _step(name: str, stage: Stage1, images: int, image_size: int, jit: bool | None) -> Work:
    adversarial, gamma = STEPS[name]
    adversary = stage.adversary.model_copy(update={"r1_gamma": gamma, "r1_every": 1, "start_step": 0})
    loss = stage.loss.model_copy(update={"adversarial": adversarial})
    train = stage.train.model_copy(update={"batch_size": images})
    stage = stage.model_copy(update={"adversary": adversary, "loss": loss, "train": train})
    jit = train.jit_compile if jit is None else jit
    objective = Objective(stage, image_size=image_size, seed=0)
    step = tf.function(
        training_step(
            objective.learners,
            objective.gradients,
            accumulate=stage.train.accumulate,
            follow=objective.follow,
            summarize=objective.summarize,
        ),
        jit_compile=jit,
        autograph=False,
    )
    batch = {"pixels": _pixels(images, image_size)}
    flops = images * sum(accounting.step_flops(stage, image_size=image_size).values())
    return Work(name, images, jit, flops, lambda: step(batch)["loss"].numpy())


def _pixels(images: int, image_size: int) -> tf.Tensor:
    return tf.random.stateless_uniform([images, image_size, image_size, 3], seed=[0, 0])


if __name__ == "__main__":
    main()
