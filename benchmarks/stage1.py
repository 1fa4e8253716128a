"""Speed of the tokenizer's encoding, reconstruction and training: `python -m benchmarks.stage1`.

Images are random numbers and no data is read, so only the models are timed. Encoder and decoder run as they
are served, in TensorFlow's graph with an unknown batch size; whether XLA compiles a training step is up to
the preset, or to `--jit` or `--no-jit`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import click
import keras
import tensorflow as tf
from rich.console import Console

from benchmarks.interleaved import MatrixProduct, Work, tabulate
from tfx_pipeline.config import load
from trainers.training.step import training_step
from trainers.vit_vqgan import accounting
from trainers.vit_vqgan.config import Perceptual, Stage1
from trainers.vit_vqgan.model import ViTVQGAN
from trainers.vit_vqgan.objective import Objective

# Calls of a served model, and the cost of each for one image.
SERVED = {
    "encode": (ViTVQGAN.encode, accounting.encode),
    "reconstruct": (lambda model, pixels: model.decode(model.encode(pixels))[0], accounting.reconstruct),
}

# Weights of the adversarial and the perceptual loss, and of R1. R1 is computed on every step here, to time a
# step with it; training computes it every 16 steps.
STEPS = {
    "step": (0.0, 0.0, 0.0),
    "step + adversary": (0.1, 0.0, 0.0),
    "step + adversary + R1": (0.1, 0.0, 10.0),
    "step + adversary + VGG16": (0.1, 0.1, 0.0),
}


class Size(NamedTuple):
    """A preset, and its images per served call and per training step."""

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


@click.command()
@click.option("--only", type=click.Choice(list(SIZES)), multiple=True, help="Only this size; repeatable.")
@click.option(
    "--work", type=click.Choice([*SERVED, *STEPS]), multiple=True, help="Only this work; repeatable."
)
@click.option(
    "--jit/--no-jit", default=None, help="Compile training steps with XLA or not, overriding presets."
)
@click.option("--repetitions", default=7, show_default=True, help="Per measurement; the median is used.")
@click.option("--quick", is_flag=True, help="Smoke test: tiny models, one repetition.")
def main(
    only: tuple[str, ...], work: tuple[str, ...], jit: bool | None, repetitions: int, quick: bool
) -> None:
    """Time stage 1 relative to a float32 matrix product on this machine."""
    works = (
        timed
        for name in only or SIZES
        for timed in _works(name, work or (*SERVED, *STEPS), jit=jit, quick=quick)
    )
    yardstick = MatrixProduct(256 if quick else 2048)
    Console(width=110).print(tabulate(works, yardstick=yardstick, repetitions=1 if quick else repetitions))


def _works(model: str, names: Sequence[str], *, jit: bool | None, quick: bool) -> Iterator[Work]:
    size = SIZES[model]
    config = load(size.preset, small=quick)
    for name in names:
        if name in SERVED:
            yield _served(model, name, config.trained_stage1, size.served, config.data.image_size)
        else:
            yield _step(model, name, config.trained_stage1, size.trained, config.data.image_size, jit)


def _served(size: str, name: str, stage: Stage1, images: int, image_size: int) -> Work:
    model = ViTVQGAN(stage.model, image_size=image_size, seed=0)
    call, cost = SERVED[name]
    compiled = tf.function(
        lambda pixels: call(model, pixels),
        input_signature=[tf.TensorSpec([None, image_size, image_size, 3])],
    )
    pixels = _pixels(images, image_size)
    flops = images * cost(stage.model, image_size=image_size).flops
    return Work(size, name, images, False, flops, lambda: compiled(pixels).numpy())


def _step(size: str, name: str, stage: Stage1, images: int, image_size: int, jit: bool | None) -> Work:
    adversarial, perceptual, gamma = STEPS[name]
    adversary = stage.adversary.model_copy(update={"r1_gamma": gamma, "r1_every": 1, "start_step": 0})
    loss = stage.loss.model_copy(update={"adversarial": adversarial, "perceptual": perceptual})
    train = stage.train.model_copy(update={"batch_size": images})
    jit = train.jit_compile if jit is None else jit
    with _vgg16() if perceptual else nullcontext() as weights:
        update = {
            "adversary": adversary,
            "loss": loss,
            "train": train,
            "perceptual": Perceptual(weights=weights),
        }
        stage = stage.model_copy(update=update)
        objective = Objective(stage, image_size=image_size, seed=0)
    step = tf.function(
        training_step(
            objective.states,
            objective.gradients,
            gradient_accumulation_steps=stage.train.gradient_accumulation_steps,
            post_step=objective.post_step,
            summarize=objective.summarize,
        ),
        jit_compile=jit,
        autograph=False,
    )
    batch = {"pixels": _pixels(images, image_size)}
    flops = images * sum(accounting.step_flops(stage, image_size=image_size).values())
    return Work(size, name, images, jit, flops, lambda: step(batch)["loss"].numpy())


@contextmanager
def _vgg16() -> Iterator[str]:
    """Yield a file of random VGG16 weights, as the values do not affect the speed."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/vgg16.weights.h5"
        keras.applications.VGG16(include_top=False, weights=None).save_weights(path)
        yield path


def _pixels(images: int, image_size: int) -> tf.Tensor:
    return tf.random.stateless_uniform([images, image_size, image_size, 3], seed=[0, 0])


if __name__ == "__main__":
    main()
