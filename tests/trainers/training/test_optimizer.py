import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training.config import Optimizer, Train
from trainers.training.optimizer import DecoupledOptimizer, LearningRateSchedule

OPTIONS = Optimizer(learning_rate=1e-4, final_learning_rate=5e-5, warmup_steps=50)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (25, 0.5e-4), (50, 1e-4), (275, 0.75e-4), (500, 5e-5), (1000, 5e-5)],
)
def test_schedule_warms_up_to_the_peak_and_decays_to_the_final_rate(step, rate):
    assert float(LearningRateSchedule(OPTIONS, 500)(step)) == pytest.approx(rate, rel=1e-5, abs=1e-12)


# Section 5.2: warm-up for 5,000 steps, the peak until 80,000, exponential decay until the last of 450,000.
STAGE_2 = Optimizer(
    learning_rate=4.5e-4,
    final_learning_rate=1e-5,
    warmup_steps=5000,
    decay_from=80_000,
    decay="exponential",
)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (2500, 2.25e-4),
        (5000, 4.5e-4),
        (80_000, 4.5e-4),
        # Halfway in time is halfway in the logarithm.
        (265_000, math.sqrt(4.5e-4 * 1e-5)),
        (449_999, 1e-5),
        (450_000, 1e-5),
        (500_000, 1e-5),
    ],
)
def test_stage_2_schedule_holds_the_peak_then_decays_exponentially(step, rate):
    assert float(LearningRateSchedule(STAGE_2, 450_000)(step)) == pytest.approx(rate, rel=5e-5, abs=1e-12)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (6, 0.1), (8, 0.05), (10, 0.0)])
def test_decay_from_delays_cosine_decay(step, rate):
    held = Optimizer(learning_rate=0.1, decay_from=6)
    assert float(LearningRateSchedule(held, 10)(step)) == pytest.approx(rate, abs=1e-8)


def test_schedule_round_trips_through_its_config():
    again = LearningRateSchedule.from_config(LearningRateSchedule(STAGE_2, 450_000).get_config())
    assert float(again(265_000)) == float(LearningRateSchedule(STAGE_2, 450_000)(265_000))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"decay": "exponential"},
            "final_learning_rate must be above 0 for decay exponential, got 0",
        ),
        ({"warmup_steps": 5, "decay_from": 4}, "decay_from must be at least warmup_steps 5, got 4"),
        ({"decay_from": 10}, r"optimizer\.decay_from must be below steps 10, got 10"),
        ({"warmup_steps": 10}, r"optimizer\.warmup_steps must be below steps 10, got 10"),
    ],
)
def test_invalid_schedule_is_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Train(steps=10, batch_size=1, optimizer=Optimizer(learning_rate=0.1, **options))


def test_first_step_has_the_peak_rate_without_warmup():
    assert float(LearningRateSchedule(Optimizer(learning_rate=0.1), 10)(0)) == pytest.approx(0.1)


def number(name: str, value: float) -> keras.Variable:
    return keras.Variable(np.full([2], value, "float32"), name=name)


@pytest.mark.parametrize("name", ["adam", "adafactor"])
def test_weight_decay_is_decoupled_and_applies_to_kernels_only(name):
    options = Optimizer(name=name, learning_rate=0.1, weight_decay=0.01)
    kernel, *spared = (number(each, 3.0) for each in ("kernel", "bias", "gamma", "token_embedding"))
    optimizer = DecoupledOptimizer(options, 10, [kernel, *spared])
    optimizer.apply_updates([tf.zeros([2])] * 4, tf.constant(0.0))
    # The gradient is 0, so only the decay changes weights: w - rate * decay * w.
    np.testing.assert_allclose(kernel.numpy(), 3.0 * (1 - 0.1 * 0.01), rtol=1e-6)
    np.testing.assert_array_equal([variable.numpy() for variable in spared], 3.0)


def test_updates_match_keras_adamw():
    options = Optimizer(learning_rate=0.1, weight_decay=0.02, warmup_steps=2, clip_norm=1.0)
    ours, theirs = number("kernel", 3.0), number("kernel", 3.0)
    optimizer = DecoupledOptimizer(options, 10, [ours])
    reference = keras.optimizers.AdamW(
        LearningRateSchedule(options, 10),
        beta_1=0.9,
        beta_2=0.99,
        epsilon=1e-12,
        weight_decay=0.02,
        global_clipnorm=1.0,
    )
    for step in range(5):
        gradient = tf.constant([step - 1.0, 2.0])
        optimizer.apply_updates([gradient], tf.linalg.global_norm([gradient]))
        reference.apply([gradient], [theirs])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)
    assert optimizer.iterations == 5


def test_step_of_a_rare_code_is_whole_unless_epsilon_cuts_it():
    # 8,192 codes, 256 images of 1,024 tokens: the mean gradient of a code is some 1e-8.
    def first_step(**options) -> float:
        code = number("embedding", 0.0)
        optimizer = DecoupledOptimizer(Optimizer(learning_rate=0.1, weight_decay=0.0, **options), 10, [code])
        optimizer.apply_updates([tf.constant([1e-8, 1e-8])], tf.constant(1e-8))
        return -float(code.numpy()[0]) / 0.1

    assert first_step() == pytest.approx(1.0, abs=2e-3)
    # Keras' default. Keras adds epsilon to the moment before its correction, here sqrt(0.01) 1e-8.
    assert first_step(epsilon=1e-7) == pytest.approx(1 / 101, rel=1e-3)


@pytest.mark.parametrize("name", ["adam", "adafactor"])
def test_gradients_are_clipped_to_clip_norm(name):
    # Both optimizers divide the norm of the gradient out, unless it differs between steps.
    def after(gradients, clip_norm) -> np.ndarray:
        weight = number("kernel", 0.0)
        options = Optimizer(name=name, learning_rate=0.1, clip_norm=clip_norm)
        optimizer = DecoupledOptimizer(options, 10, [weight])
        for gradient in gradients:
            optimizer.apply_updates([tf.constant(gradient)], tf.linalg.global_norm([tf.constant(gradient)]))
        return weight.numpy()

    np.testing.assert_allclose(
        after([[0.3, 0.4], [30.0, 40.0]], 0.5), after([[0.3, 0.4], [0.3, 0.4]], None), rtol=1e-5
    )
