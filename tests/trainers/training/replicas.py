"""Train a tokenizer for a few steps under a strategy, as a program: devices are set up once a process.

    python -m tests.trainers.training.replicas FOLDER STRATEGY DEVICES MICRO_BATCHES [killed|sharded]

trains on the images in FOLDER/images and writes every variable of the training to FOLDER/state-<name>.npz,
with the name of this process in TF_CONFIG, or "alone". `killed` kills the process after the last step, before
its checkpoint; `sharded` trains with stage 1 of ZeRO. With the strategy `mirrored`, a classifier and a VIM
are trained after the tokenizer. Only there and with several workers is the tokenizer exported.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainers.classifier import trainer as classifier_trainer
from trainers.classifier.config import Classifier, Model
from trainers.training import loop
from trainers.training.config import Augmentation, Job, Optimizer, Section, Train, Transformer
from trainers.training.distribution import open_strategy
from trainers.transformer import Block
from trainers.vim import trainer as vim_trainer
from trainers.vim.config import Stage2
from trainers.vit_vqgan import trainer
from trainers.vit_vqgan.config import Stage1

STEPS = 4
TOWER = {"blocks": 1, "heads": 2, "width": 16, "hidden": 32}


def stage(strategy: str, accumulate: int, zero_stage: int = 0) -> Stage1:
    """A tokenizer with everything that depends on the whole batch: adversary, R1, LeCAM, code revival, EMA.

    The tokenizer trains with Adam, the discriminator with Adafactor.
    """
    return Stage1.model_validate(
        {
            "model": {
                "patch_size": 4,
                "encoder": TOWER,
                "decoder": TOWER,
                "codebook": {"size": 16, "dim": 4, "revive_below": 0.5},
            },
            "loss": {"perceptual": 0.0, "adversarial": 0.1},
            "adversary": {
                "discriminator": {"network": "stylegan2", "channel_multiplier": 0.01},
                "r1_every": 2,
                "lecam": 0.1,
                "optimizer": {"name": "adafactor", "learning_rate": 1e-3},
            },
            "train": {
                "steps": STEPS,
                "batch_size": 16,
                "gradient_accumulation_steps": accumulate,
                "ema_decay": 0.9,
                "strategy": strategy,
                "zero_stage": zero_stage,
                "steps_per_call": 2,
                "log_every": 2,
                "checkpoint_every": 2,
                "optimizer": {"learning_rate": 1e-3},
            },
        }
    )


def classifier_stage(strategy: str) -> Classifier:
    """A classifier that trains for two steps."""
    optimizer = Optimizer(learning_rate=1e-3)
    train = Train(steps=2, batch_size=8, strategy=strategy, optimizer=optimizer)
    return Classifier(model=Model(blocks_per_stage=1, width=4), train=train)


def vim_stage(strategy: str) -> Stage2:
    """A VIM that trains for two steps; in each, every replica encodes its own images."""
    optimizer = Optimizer(learning_rate=1e-3, name="adafactor")
    train = Train(steps=2, batch_size=8, strategy=strategy, optimizer=optimizer)
    return Stage2.model_validate(
        {"model": {"transformer": TOWER}, "tokens": "on_the_fly", "train": train.model_dump()}
    )


class Arguments:
    """The arguments that TFX passes to a `run_fn`."""

    def __init__(
        self,
        folder: Path,
        images: Path,
        stage: Section,
        *,
        base_model: str | None = None,
        image_size: int = 16,
    ):
        job = Job(
            preset="test",
            seed=0,
            image_size=image_size,
            augmentation=Augmentation(),
            checkpoints=str(folder / "checkpoints"),
            logs=str(folder / "logs"),
        )
        self.custom_config = {"job": job.model_dump_json(), "stage": stage.model_dump_json()}
        self.train_files = [str(images / "Split-train" / "*")]
        self.eval_files = [str(images / "Split-eval" / "*")]
        self.base_model = base_model
        self.model_run_dir = str(folder / "run")
        self.serving_model_dir = str(folder / "model")


def main(folder: Path, strategy: str, devices: int, accumulate: int, how: str = "") -> None:
    """Train, and write every variable of the training."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    objectives = []
    make = trainer.Objective
    trainer.Objective = lambda *args, **options: objectives.append(make(*args, **options)) or objectives[-1]
    if strategy == "one_device":
        trainer.export_tokenizer = lambda *args, **options: None
    if how == "killed":
        kill_before_the_last_checkpoint()
    configured = stage(strategy, accumulate, zero_stage=int(how == "sharded"))
    trainer.run_fn(Arguments(folder, folder / "images", configured))
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
    name = f"{task['type']}-{task['index']}" if task else "alone"
    state = {
        f"{part}/{index}": variable.numpy()
        for part, variables in objectives[0].variables.items()
        for index, variable in enumerate(variables)
    }
    np.savez(folder / f"state-{name}.npz", **state)
    if strategy == "mirrored":
        np.save(folder / "dropped.npy", dropped())
        # As in a local run, the other networks are trained in the same process.
        arguments = Arguments(folder / "classifier", folder / "images", classifier_stage(strategy))
        classifier_trainer.run_fn(arguments)
        stage_2, tokenizer = vim_stage(strategy), str(folder / "model")
        vim_trainer.run_fn(Arguments(folder / "vim", folder / "images", stage_2, base_model=tokenizer))


def kill_before_the_last_checkpoint() -> None:
    """Make the process kill itself, when it has trained beyond its newest checkpoint."""
    save = loop.Checkpointer.save

    def save_or_die(keeper: loop.Checkpointer, step: int, consecutive_skips: tf.Tensor, *, best: int) -> None:
        if step == STEPS:
            keeper.finish()  # the one before is written by now
            os.kill(os.getpid(), signal.SIGKILL)
        save(keeper, step, consecutive_skips, best=best)

    loop.Checkpointer.save = save_or_die


def dropped() -> np.ndarray:
    """The output on each replica of a block with dropout 0.5 for the same rows, [replicas, ...]."""
    strategy = open_strategy(vim_stage("mirrored").train)
    with strategy.scope():
        block = Block(Transformer(**TOWER), dropout=0.5)
        block(tf.zeros([1, 4, 16]))
    rows = tf.random.stateless_normal([1, 4, 16], seed=[0, 0])
    results = strategy.run(lambda: block(rows, training=True))
    return np.stack([result.numpy() for result in strategy.experimental_local_results(results)])


if __name__ == "__main__":
    gc.disable()  # a tenth of the time of this short program
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # an eighth
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), *sys.argv[5:])
