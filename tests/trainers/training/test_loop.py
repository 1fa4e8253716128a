import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training.config import Optimizer, Train
from trainers.training.loop import TrainingError, fit
from trainers.training.optimizer import adamw, descent_step


def settings(steps: int) -> Train:
    return Train(
        steps=steps,
        batch_size=1,
        steps_per_call=2,
        log_every=2,
        checkpoint_every=4,
        optimizer=Optimizer(learning_rate=0.1),
    )


class Walk:
    """A model of one number that takes in every batch it sees, in order, so that any slip shows."""

    def __init__(self, *, broken_at: int = -1):
        self.value = keras.Variable(1.0)
        self.starts: list[int] = []
        self.broken_at = broken_at

    def step(self, batch):
        self.value.assign(0.5 * self.value.value + batch["x"])
        return {"loss": tf.where(batch["x"] == self.broken_at, math.nan, self.value.value)}

    def batches(self, first_step: int) -> tf.data.Dataset:
        self.starts.append(first_step)
        return tf.data.Dataset.range(first_step, 10_000).map(lambda i: {"x": tf.cast(i, tf.float32)})

    def fit(self, folder, steps: int):
        return fit(
            "walk",
            settings(steps),
            step=self.step,
            batches=self.batches,
            state={"model": [self.value]},
            evaluate=lambda: {"loss": self.value, "twice": 2 * self.value},
            checkpoints=str(folder / "checkpoints"),
            logs=str(folder / "logs"),
        )


def test_every_step_sees_its_batch_once(tmp_path):
    walk, expected = Walk(), 1.0
    walk.fit(tmp_path, 7)
    for x in range(7):
        expected = 0.5 * expected + x
    assert walk.value.numpy() == pytest.approx(expected)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
    whole = Walk()
    history = whole.fit(tmp_path / "whole", 12)

    stopped = Walk(broken_at=9)  # dies behind the checkpoint of step 8
    with pytest.raises(TrainingError):
        stopped.fit(tmp_path / "stopped", 12)
    resumed = Walk()
    continued = resumed.fit(tmp_path / "stopped", 12)

    assert resumed.starts == [8]
    assert resumed.value.numpy() == whole.value.numpy()
    drop_rate = [{k: v for k, v in entry.items() if k != "steps_per_second"} for entry in continued]
    assert drop_rate == [{k: v for k, v in entry.items() if k != "steps_per_second"} for entry in history]


def test_batch_statistics_and_random_state_survive_a_stop_to_the_last_bit(tmp_path):
    whole = train_wobbly(tmp_path / "whole", 12)
    train_wobbly(tmp_path / "resumed", 4)
    resumed = train_wobbly(tmp_path / "resumed", 12)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


class Wobbly(keras.Model):
    """Everything that is easily lost on resume: layers in a list, batch statistics, dropout's seeds."""

    def __init__(self):
        super().__init__()
        self.parts = [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
        self(tf.zeros([1, 2]))

    def call(self, x, training=False):
        dense, norm, dropout = self.parts
        return dropout(norm(dense(x), training=training), training=training)


def train_wobbly(folder, steps: int) -> list[np.ndarray]:
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    model = Wobbly()
    optimizer = adamw(settings(12).optimizer, 12, model.trainable_variables)

    def losses(batch):
        return {"loss": tf.reduce_mean(tf.square(model(batch["x"], training=True) - 1.0))}

    fit(
        "wobbly",
        settings(steps),
        step=descent_step(model, optimizer, losses),
        batches=noise,
        state={"model": model.variables, "optimizer": optimizer.variables},
        evaluate=lambda: {"loss": tf.constant(0.0)},
        checkpoints=str(folder),
        logs=str(folder),
    )
    return [variable.numpy() for variable in [*model.variables, *optimizer.variables]]


def noise(first_step: int) -> tf.data.Dataset:
    steps = tf.data.Dataset.range(first_step, 10_000)
    return steps.map(lambda i: {"x": tf.random.stateless_normal([4, 2], tf.stack([i, i]))})


def test_weights_whose_loss_is_not_finite_are_never_saved(tmp_path):
    walk = Walk()
    with pytest.raises(TrainingError, match="walk: the loss is nan at step 4"):
        fit(
            "walk",
            settings(8),
            step=walk.step,
            batches=walk.batches,
            state={"model": [walk.value]},
            evaluate=lambda: {"loss": math.nan},
            checkpoints=str(tmp_path),
            logs=str(tmp_path),
        )
    assert tf.train.latest_checkpoint(str(tmp_path)) is None


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, again = Walk(), Walk()
    history = first.fit(tmp_path, 6)
    assert again.fit(tmp_path, 6) == history
    assert again.value.numpy() == first.value.numpy()


def test_history_holds_means_at_log_steps_and_evaluations_at_checkpoints(tmp_path):
    history = Walk().fit(tmp_path, 6)
    assert [entry["step"] for entry in history] == [2, 4, 6]
    # After steps 0 and 1 the value is 0.5 and 1.25.
    assert history[0]["loss"] == pytest.approx((0.5 + 1.25) / 2)
    assert ["eval_twice" in entry for entry in history] == [False, True, True]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(TrainingError, match=r"walk: the loss is nan at step 6"):
        Walk(broken_at=5).fit(tmp_path, 12)


def test_tensorboard_gets_its_events(tmp_path):
    Walk().fit(tmp_path, 4)
    assert list((tmp_path / "logs").glob("events.out.tfevents*"))


def test_marks_must_be_multiples_of_a_call():
    with pytest.raises(ValueError, match="log_every 3 is not a multiple of steps_per_call 2"):
        Train(
            steps=6,
            batch_size=1,
            steps_per_call=2,
            log_every=3,
            checkpoint_every=4,
            optimizer=Optimizer(learning_rate=0.1),
        )
