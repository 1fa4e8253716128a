import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training.config import Optimizer, Train
from trainers.training.step import loss_gradients, training_step
from trainers.training.train_state import TrainState, ema_weights


def settings(**options) -> Train:
    rhythm = {"steps": 20, "batch_size": 4, "optimizer": Optimizer(learning_rate=0.1, clip_norm=1.0)}
    return Train(**{**rhythm, **options})


class Regression(keras.Model):
    """Linear regression, optionally behind batch norm."""

    def __init__(self, *, normed: bool = False):
        super().__init__()
        self.line = keras.layers.Dense(1, kernel_initializer="ones")
        self.norm = keras.layers.BatchNormalization() if normed else None
        self(tf.zeros([1, 2]))

    def call(self, x, training=False):
        return self.line(self.norm(x, training=training) if self.norm else x)


def losses_of(model):
    def losses(batch):
        error = model(batch["x"], training=True) - batch["y"]
        return {"loss": tf.reduce_mean(tf.square(error)), "error": tf.reduce_mean(error)}

    return losses


def points(count: int = 4, *, seed: int = 0, broken: bool = False) -> dict[str, tf.Tensor]:
    x = tf.random.stateless_normal([count, 2], [seed, 0])
    return {"x": tf.where(broken, math.nan, x), "y": tf.reduce_sum(x, axis=-1, keepdims=True) * 3.0}


def trained(state: TrainState) -> list[np.ndarray]:
    return [np.array(variable) for variable in state.variables]


@pytest.mark.parametrize("compiled", [False, True])
def test_gradient_accumulation_equals_one_batch(compiled):
    def after(parts: int) -> tuple[list[np.ndarray], dict[str, float]]:
        state = TrainState(model := Regression(), settings())
        step = training_step(
            [state], loss_gradients(state, losses_of(model)), gradient_accumulation_steps=parts
        )
        step = tf.function(step, jit_compile=compiled)
        for seed in range(3):
            metrics = step(points(seed=seed))
        return trained(state), {name: float(value) for name, value in metrics.items()}

    whole, in_parts = after(1), after(4)
    assert whole[1] == pytest.approx(in_parts[1], rel=1e-5)
    for one, other in zip(whole[0], in_parts[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("parts", "rows"), [(1, 4), (2, 2), (4, 1)])
def test_gradient_accumulation_computes_one_micro_batch_at_a_time(parts, rows):
    state, seen = TrainState(model := Regression(), settings()), []

    def losses(batch):
        seen.append(batch["x"].shape[0])
        return losses_of(model)(batch)

    step = training_step([state], loss_gradients(state, losses), gradient_accumulation_steps=parts)
    tf.function(step)(points())
    assert set(seen) == {rows}


@pytest.mark.parametrize("parts", [1, 2])
def test_non_finite_step_is_skipped_and_reported(parts):
    state = TrainState(model := Regression(normed=True), settings(ema_decay=0.9))
    followed = []
    step = training_step(
        [state],
        loss_gradients(state, losses_of(model)),
        gradient_accumulation_steps=parts,
        post_step=lambda m: followed.append(m),
    )
    assert step(points())["skipped"] == 0.0
    before = trained(state)
    metrics = step(points(broken=True))
    assert {name: float(value) for name, value in metrics.items()} == {
        "loss": 0.0,
        "error": 0.0,
        "skipped": 1.0,
        "gradient_norm": 0.0,
        "learning_rate": 0.0,
    }
    for one, other in zip(before, trained(state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(followed) == 1


def test_row_is_the_index_in_the_whole_batch():
    state = TrainState(model := Regression(), settings())
    line = losses_of(model)

    def losses(batch):
        # The mean of row x index over micro-batches is that over the batch: (0 0 + 1 1 + 2 2 + 3 3) / 4.
        rows = tf.cast(batch["row"], tf.float32)
        return {**line(batch), "product": tf.reduce_mean(rows * batch["index"])}

    batch = {**points(), "index": tf.range(4.0)}
    for parts in (1, 2, 4):
        metrics = training_step([state], loss_gradients(state, losses), gradient_accumulation_steps=parts)(
            batch
        )
        assert float(metrics["product"]) == pytest.approx(14 / 4)


def test_each_network_uses_its_own_gradients_and_optimizer():
    one, other = (TrainState(Regression(), settings(), Optimizer(learning_rate=rate)) for rate in (0.1, 0.2))
    still = [tf.zeros_like(v.value) for v in one.trainable_variables]
    pushed = [tf.ones_like(v.value) for v in other.trainable_variables]
    step = training_step([one, other], lambda batch: ([still, pushed], {"loss": tf.constant(0.0)}))
    before = [np.array(v) for v in one.trainable_variables]
    step(points())
    for value, variable in zip(before, one.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), value * (1 - 1e-5 * (variable.name == "kernel")))
    # Adam's first step is the learning rate for any gradient.
    assert other.trainable_variables[1].numpy() == pytest.approx(-0.2, rel=1e-4)


def test_ema_follows_the_weights_and_is_swapped_in_temporarily():
    state = TrainState(model := Regression(), settings(ema_decay=0.5))
    expected = np.array(model.line.bias)
    step = training_step([state], loss_gradients(state, losses_of(model)))
    for move in range(1, 4):
        step(points(seed=move))
        decay = min(0.5, (1 + move) / (10 + move))
        expected = decay * expected + (1 - decay) * model.line.bias.numpy()
    weights = np.array(model.line.bias)
    with ema_weights([state]):
        np.testing.assert_allclose(model.line.bias.numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(model.line.bias.numpy(), weights)


def test_duplicate_embedding_rows_use_their_summed_gradient():
    class Table(keras.Model):
        def __init__(self):
            super().__init__()
            self.rows = self.add_weight(name="rows", shape=(3, 2), initializer="ones")

    def moved(gather) -> np.ndarray:
        state = TrainState(table := Table(), settings())
        losses = loss_gradients(
            state, lambda batch: {"loss": tf.reduce_sum(gather(table.rows.value) * batch["w"])}
        )
        for w in ([[1.0, 2.0], [3.0, 4.0]], [[-1.0, 0.5], [2.0, 0.0]]):
            training_step([state], losses)({"w": tf.constant(w)})
        return table.rows.numpy()

    sparse = moved(lambda rows: tf.gather(rows, [1, 1]))
    dense = moved(lambda rows: tf.matmul(tf.constant([[0.0, 1.0, 0.0]] * 2), rows))
    np.testing.assert_allclose(sparse, dense, rtol=1e-5)


def test_gradient_norm_before_clipping_and_learning_rate_of_each_network_are_reported():
    options = Optimizer(learning_rate=0.5, final_learning_rate=0.0, clip_norm=1e-3, warmup_steps=4)
    first, second = Regression(), Regression()
    states = [
        TrainState(first, settings(optimizer=options)),
        TrainState(second, settings(), metrics_prefix="other_"),
    ]

    def gradients(batch):
        of_first, metrics = loss_gradients(states[0], losses_of(first))(batch)
        of_second, _ = loss_gradients(states[1], losses_of(second))(batch)
        return [*of_first, *of_second], metrics

    batch = points()
    with tf.GradientTape() as tape:
        loss = losses_of(first)(batch)["loss"]
    expected = tf.linalg.global_norm(tape.gradient(loss, [v.value for v in first.trainable_variables]))
    step = training_step(states, gradients)
    metrics = step(batch)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["other_gradient_norm"]) == pytest.approx(float(expected), rel=1e-5)
    assert [float(step(batch)["learning_rate"]) for _ in range(3)] == pytest.approx([0.125, 0.25, 0.375])
    assert float(metrics["other_learning_rate"]) == pytest.approx(0.1)
    broken = step(points(broken=True))
    assert (float(broken["gradient_norm"]), float(broken["learning_rate"])) == (0.0, 0.0)
