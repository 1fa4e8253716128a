"""Whether a discriminator learns: against frozen reconstructions, as no tokenizer can run away from it."""

import math

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from tfx_pipeline.config import load
from trainers.training.step import gradients_of
from trainers.vit_vqgan import losses
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.objective import Objective

CHANCE = 2 * math.log(2)
SIDE = 32
STEPS = 120


@pytest.fixture(scope="module")
def frozen() -> tuple[tf.Tensor, tf.Tensor]:
    """Digits [N, 32, 32, 3] in [0, 1], and reconstructions as faithful as those of the digits preset."""
    small = load_digits().images[:1024].reshape(1024, -1) / 16
    components = PCA(18, random_state=0).fit(small)
    pairs = small, components.inverse_transform(components.transform(small))
    images, coded = (
        tf.clip_by_value(
            tf.image.resize(x.reshape(-1, 8, 8, 1).astype("float32"), [SIDE, SIDE], "bicubic"), 0.0, 1.0
        )
        for x in pairs
    )
    images, coded = (tf.repeat(x, 3, axis=-1) for x in (images, coded))
    assert 21 < float(losses.psnr(images, coded)) < 25
    return images, coded


def loss_after_training(stage: Stage1, frozen: tuple[tf.Tensor, tf.Tensor]) -> float:
    """The discriminator's loss, the mean of the last 20 of `STEPS` steps as its trainer makes them."""
    game = Objective(stage, image_size=SIDE, seed=0)
    assert game.adversary is not None

    @tf.function(autograph=False)
    def step(images: tf.Tensor, coded: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            metrics, loss = game._adversarial(images, coded)
        own = gradients_of(tape, loss, game.adversary.trainable_variables)
        if game._r1_gamma:
            own = [one + more for one, more in zip(own, game._lazy_r1(images)[1], strict=True)]
        game.adversary.apply_updates(own, tf.linalg.global_norm(own), replica=0)
        return metrics["discriminator"]

    order = np.random.default_rng(0)
    batches = [order.integers(0, len(frozen[0]), [2, 64]) for _ in range(STEPS)]
    found = [float(step(tf.gather(frozen[0], real), tf.gather(frozen[1], fake))) for real, fake in batches]
    return float(np.mean(found[-20:]))


@pytest.mark.slow
def test_discriminator_learns_on_frozen_reconstructions(frozen):
    assert loss_after_training(load("digits").trained_stage1, frozen) < 0.85 * CHANCE


@pytest.mark.slow
def test_discriminator_that_cannot_learn_rings_the_alarm(frozen):
    stage = load("digits", ["stage1.adversary.r1_gamma=10.0"]).trained_stage1
    reached = loss_after_training(stage, frozen)
    (at_chance,) = [alarm for alarm in stage.alarms if alarm.title == "discriminator at chance"]
    assert at_chance.rings({"step": stage.train.steps, "discriminator": reached})


def test_discriminator_is_watched_once_it_had_time_to_learn():
    stage = load("digits", ["stage1.train.steps=800", "stage1.adversary.start_step=400"]).trained_stage1
    chance, won = stage.alarms[1:]
    assert chance.rings({"step": 599, "discriminator": CHANCE}) is None
    assert chance.rings({"step": 600, "discriminator": CHANCE})
    assert not chance.rings({"step": 600, "discriminator": 1.2})
    assert won.rings({"step": 600, "discriminator": 0.01})
    assert not won.rings({"step": 600, "discriminator": 0.3})


def test_nothing_of_a_discriminator_is_watched_without_one():
    alarms = load("digits", ["stage1.loss.adversarial=0"]).trained_stage1.alarms
    assert [alarm.metric for alarm in alarms] == ["codebook_usage"]


@pytest.mark.parametrize(
    ("preset", "gamma"), [("imagenet256_bb", 0.0512), ("cifar10", 0.0032), ("ablations/patchgan", 0.0)]
)
def test_gamma_follows_the_size_of_images_and_batch(preset, gamma):
    config = load(preset)
    adversary, batch = config.trained_stage1.adversary, config.trained_stage1.train.batch_size
    assert adversary.gamma(image_size=config.data.image_size, batch_size=batch) == pytest.approx(gamma)
