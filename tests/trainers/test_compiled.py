"""Every training step compiles as a whole under XLA: static shapes, and no host operations.

A TPU requires both; without a TPU, this is the closest a test can come.
"""

import tempfile

import pytest
import tensorflow as tf

from tests import stand_ins
from tests.trainers.precision import bfloat16
from tests.trainers.vit_vqgan import distances
from trainers.classifier import config as classifier
from trainers.classifier import trainer as classifier_trainer
from trainers.classifier.model import ResNet
from trainers.training.config import Memory, Optimizer, Train, Transformer
from trainers.training.step import TrainState, loss_gradients, training_step
from trainers.vim import config as vim
from trainers.vim import trainer as vim_trainer
from trainers.vim.model import VIM
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.objective import Objective

pytestmark = pytest.mark.slow

ON_HOST = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "HostCompute", "Print", "PrintV2"}
BATCH = 4


def train(**options) -> Train:
    return Train(steps=8, batch_size=BATCH, optimizer=Optimizer(learning_rate=1e-3), **options)


def pictures() -> dict[str, tf.Tensor]:
    pixels = tf.random.stateless_uniform([BATCH, 16, 16, 3], seed=[0, 0])
    return {"pixels": pixels, "label": tf.range(BATCH) % 2}


TOWER = {"blocks": 1, "heads": 2, "width": 16, "hidden": 32}
CONVOLUTIONS = {"channels": 8, "multipliers": [1, 2], "residual_blocks": 1}


def tokenizer_step(
    discriminator=None, *, tower=TOWER, patch_size=4, perceptual=None, start_step=0, **options
):
    codebook = {"size": 16, "dim": 4, "revive_below": 0.2, "continuous_steps": 1, "entropy": 0.1}
    stage = Stage1.model_validate(
        {
            "model": {"patch_size": patch_size, "encoder": tower, "decoder": tower, "codebook": codebook},
            "loss": {
                "perceptual": 0.1 if perceptual else 0.0,
                "adversarial": 0.1 if discriminator else 0.0,
            },
            "perceptual": perceptual or {},
            "adversary": {
                "discriminator": discriminator or {"network": "stylegan2"},
                "lecam": 0.1,
                "start_step": start_step,
            },
            "train": train(**options).model_dump(),
        }
    )
    objective = Objective(stage, image_size=16, seed=0)
    step = training_step(
        objective.states,
        objective.gradients,
        gradient_accumulation_steps=stage.train.gradient_accumulation_steps,
        post_step=objective.post_step,
        summarize=objective.summarize,
    )
    return step, pictures()


def classifier_step():
    model = ResNet(classifier.Model(blocks_per_stage=1, width=4), image_size=16, classes=2)
    state = TrainState(model, train())

    def losses(batch):
        return classifier_trainer._losses(model, batch["pixels"], batch["label"], training=True)

    return training_step([state], loss_gradients(state, losses)), pictures()


def vim_step(**options):
    size = Transformer(blocks=2, heads=2, width=16, hidden=32)
    model = VIM(
        vim.Model(transformer=size, **options),
        tokens=16,
        codebook_size=8,
        classes=2,
        memory=Memory(gradient_checkpointing=True, blockwise_attention=True),
    )
    state = TrainState(model, train())

    def losses(batch):
        return vim_trainer.losses(model, batch, training=True)

    tokens = tf.random.stateless_uniform([BATCH, 16], seed=[0, 0], maxval=8, dtype=tf.int32)
    step = training_step([state], loss_gradients(state, losses))
    batch = {"tokens": tokens, "label": tf.range(BATCH) % 2}
    orders = tf.tile(tf.range(16)[tf.newaxis, ::-1], [BATCH, 1])
    return step, {**batch, "order": orders} if model.own_positions is not None else batch


def on_the_fly_step():
    tokenizer = tf.saved_model.load(written(stand_ins.write_tokenizer))
    size = Transformer(blocks=1, heads=2, width=16, hidden=32)
    model = VIM(vim.Model(transformer=size), tokens=stand_ins.TOKENS, codebook_size=16, classes=2)
    state = TrainState(model, train())

    def losses(batch):
        tokens = tokenizer.signatures["encode_pixels"](pixels=batch["pixels"])["tokens"]
        return vim_trainer.losses(model, {**batch, "tokens": tokens}, training=True)

    pixels = tf.image.resize(pictures()["pixels"], [stand_ins.SIZE, stand_ins.SIZE])
    return training_step([state], loss_gradients(state, losses)), {**pictures(), "pixels": pixels}


def written(write) -> str:
    folder = tempfile.mkdtemp()
    return write(folder) or folder


def in_bfloat16(make):
    with bfloat16():
        return make()


STEPS = {
    "tokenizer with all options": lambda: tokenizer_step(
        {"network": "stylegan2", "channel_multiplier": 0.01, "minibatch_stddev": 2},
        gradient_accumulation_steps=2,
        ema_decay=0.9,
        gradient_checkpointing=True,
        blockwise_attention=True,
    ),
    "tokenizer with PatchGAN and start_step": lambda: tokenizer_step(
        {"network": "patchgan", "channels": 4, "layers": 2}, start_step=1
    ),
    "tokenizer with VGG16 as perceptual loss": lambda: tokenizer_step(
        perceptual={"weights": written(distances.untrained_vgg16)}
    ),
    "tokenizer with a SavedModel as perceptual loss": lambda: tokenizer_step(
        perceptual={"network": written(distances.saved)}
    ),
    "convolutional tokenizer": lambda: tokenizer_step(tower=CONVOLUTIONS, patch_size=2),
    "tokenizer in bfloat16": lambda: in_bfloat16(
        lambda: tokenizer_step({"network": "stylegan2", "channel_multiplier": 0.01})
    ),
    "convolutional tokenizer in bfloat16": lambda: in_bfloat16(
        lambda: tokenizer_step(tower=CONVOLUTIONS, patch_size=2)
    ),
    "vim in bfloat16": lambda: in_bfloat16(vim_step),
    "vim with tokens on the fly": on_the_fly_step,
    "classifier": classifier_step,
    "vim": vim_step,
    "vim in random orders, with query-key norm": lambda: vim_step(
        qk_norm=True, random_order={"anneal_from": 1, "anneal_until": 2}
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_training_step_compiles_without_host_operations(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    step, batch = STEPS[name]()
    compiled = tf.function(step, jit_compile=True, autograph=False)
    graph = compiled.get_concrete_function(batch).graph
    functions = graph.as_graph_def().library.function
    kinds = {op.type for op in graph.get_operations()} | {node.op for f in functions for node in f.node_def}
    assert not kinds & ON_HOST
    # XLA itself refuses host calls and unknown shapes.
    assert float(compiled(batch)["skipped"]) == 0.0
