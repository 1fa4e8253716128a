import gc
import json
import math
import signal
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainers import events
from trainers.training.alarms import OVERFITTING, Alarm
from trainers.training.checkpoint import Checkpointer, saved_steps
from trainers.training.config import Optimizer, Train
from trainers.training.errors import TrainingError
from trainers.training.loop import fit
from trainers.training.preemption import Preempted, Preemption
from trainers.training.progress import Progress
from trainers.training.step import loss_gradients, training_step
from trainers.training.train_state import TrainState

pytestmark = pytest.mark.slow


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
    """A model of one number that depends on every batch and on their order, so that any error shows."""

    def __init__(self, *, skipped: range = range(0), dies_at: int = -1):
        self.value = keras.Variable(1.0)
        self.starts: list[int] = []
        self.skipped = skipped
        self.dies_at = dies_at

    def step(self, batch):
        x = batch["x"]
        skipped = tf.cast((x >= self.skipped.start) & (x < self.skipped.stop), tf.float32)
        self.value.assign(tf.where(skipped > 0, self.value.value, 0.5 * self.value.value + x))
        return {"loss": (1.0 - skipped) * self.value.value, "skipped": skipped}

    def evaluate(self):
        dead = self.value.value > self.dies_at if self.dies_at > 0 else False
        return {"loss": tf.where(dead, math.nan, self.value.value), "twice": 2 * self.value}

    def batches(self, first_step: int, host: tf.distribute.InputContext) -> tf.data.Dataset:
        self.starts.append(first_step)
        return tf.data.Dataset.range(first_step, 10_000).map(lambda i: {"x": tf.cast(i, tf.float32)})

    def fit(self, folder, steps: int, *, train: Train | None = None, **options):
        return fit(
            "walk",
            train or settings(steps),
            step=self.step,
            batches=self.batches,
            variables={"model": [self.value]},
            evaluate=self.evaluate,
            checkpoints=str(folder / "checkpoints"),
            logs=str(folder / "logs"),
            **options,
        )


def test_every_step_gets_its_batch_once(tmp_path):
    walk, expected = Walk(), 1.0
    walk.fit(tmp_path, 7)
    for x in range(7):
        expected = 0.5 * expected + x
    assert walk.value.numpy() == pytest.approx(expected)


def test_resumed_run_equals_an_uninterrupted_run(tmp_path):
    whole = Walk()
    history = whole.fit(tmp_path / "whole", 12)

    stopped = Walk(dies_at=13)  # the value is 12.0 at step 8 and about 20 at step 12: fails after step 8
    with pytest.raises(TrainingError):
        stopped.fit(tmp_path / "stopped", 12)
    resumed = Walk()
    continued = resumed.fit(tmp_path / "stopped", 12)

    assert resumed.starts == [8]
    assert resumed.value.numpy() == whole.value.numpy()
    drop_rate = [{k: v for k, v in entry.items() if k != "steps_per_second"} for entry in continued]
    assert drop_rate == [{k: v for k, v in entry.items() if k != "steps_per_second"} for entry in history]


def test_resume_with_other_intervals_realigns_the_logged_steps(tmp_path):
    Walk().fit(tmp_path, 6)
    sparse = settings(30).model_copy(update={"steps_per_call": 5, "log_every": 5, "checkpoint_every": 10})
    history = Walk().fit(tmp_path, 30, train=sparse)
    assert [entry["step"] for entry in history] == [2, 4, 6, 10, 15, 20, 25, 30]


def test_resume_of_batch_statistics_and_random_state_is_bit_exact(tmp_path):
    whole = train_wobbly(tmp_path / "whole", 12)
    train_wobbly(tmp_path / "resumed", 4)
    resumed = train_wobbly(tmp_path / "resumed", 12)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def without_index(checkpoints) -> None:
    """Simulate a kill while the newer checkpoint is written."""
    (checkpoints / "ckpt-8.index").unlink()
    (checkpoints / "ckpt-8_temp").mkdir()
    (checkpoints / "ckpt-8_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")


def without_checkpoint(checkpoints) -> None:
    """Simulate a kill between writing the history and the first checkpoint."""
    for path in checkpoints.iterdir():
        if path.name != "history.jsonl":
            path.unlink()


@pytest.mark.parametrize(
    ("killed", "goes_on_from"),
    [
        (lambda checkpoints: None, 8),
        (without_index, 4),
        (without_checkpoint, 0),
    ],
    ids=["after a checkpoint", "while it is written", "before the first"],
)
def test_resume_after_a_kill_is_bit_exact(tmp_path, killed, goes_on_from):
    whole, history = train_wobbly(tmp_path / "whole", 12), steps_of(tmp_path / "whole")
    train_wobbly(tmp_path / "killed", 8)
    killed(tmp_path / "killed")
    starts.clear()
    resumed = train_wobbly(tmp_path / "killed", 12)
    assert starts == [goes_on_from]
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert steps_of(tmp_path / "killed") == history == [2, 4, 6, 8, 10, 12]


def shortened(path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [shortened, flipped, Path.unlink])
@pytest.mark.parametrize("file", ["ckpt-8.index", "ckpt-8.data-00000-of-00001"])
def test_damaged_checkpoint_is_kept_aside_and_training_goes_on_from_the_one_before(
    tmp_path, capsys, file, damage
):
    whole = train_wobbly(tmp_path / "whole", 12)
    train_wobbly(tmp_path / "damaged", 8)
    damage(tmp_path / "damaged" / file)
    starts.clear()
    resumed = train_wobbly(tmp_path / "damaged", 12)
    assert starts == [4]
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    if not (file.endswith("index") and damage == Path.unlink):  # then it looks as if it was never finished
        said = " ".join(capsys.readouterr().err.split())
        assert "ckpt-8 is damaged and kept as damaged-ckpt-8: " in said
        assert list((tmp_path / "damaged").glob("damaged-ckpt-8.*"))


def test_checkpoint_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    train_wobbly(tmp_path, 8)

    def unavailable(path):
        raise tf.errors.UnavailableError(None, None, "try again")

    monkeypatch.setattr(tf.train, "load_checkpoint", unavailable)
    with pytest.raises(tf.errors.UnavailableError):
        train_wobbly(tmp_path, 12)
    assert (tmp_path / "ckpt-8.index").exists()


@pytest.mark.parametrize(
    ("saved", "own", "line"),
    [
        (
            keras.Variable([1.0, 2.0]),
            keras.Variable([1.0]),
            r"got \(\(2,\), tf.float32\) for model/0/",
        ),
        (keras.Variable([1.0]), keras.Variable([1], dtype="int8"), r"which is \(\(1,\), tf.int8\) here"),
    ],
)
def test_checkpoint_of_other_variables_is_refused(tmp_path, saved, own, line):
    keeper = Checkpointer({"model": [saved]}, str(tmp_path), keep=1)
    keeper.save(1, tf.constant(0.0), best=0)
    keeper.finish()
    with pytest.raises(TrainingError, match=line):
        Checkpointer({"model": [own]}, str(tmp_path), keep=1).restore()
    with pytest.raises(TrainingError, match="got None for model/1"):
        Checkpointer({"model": [saved, own]}, str(tmp_path), keep=1).restore()
    with pytest.raises(TrainingError, match="which is None here"):
        Checkpointer({}, str(tmp_path), keep=1).restore()


def test_damaged_history_is_read_up_to_the_damage(tmp_path):
    train_wobbly(tmp_path, 8)
    text = (tmp_path / "history.jsonl").read_text()
    (tmp_path / "history.jsonl").write_text(text[:-20])
    train_wobbly(tmp_path, 12)
    assert steps_of(tmp_path) == [2, 4, 6, 10, 12]


def kept(folder) -> list[int]:
    return saved_steps(str(folder / "checkpoints"))


def test_newest_checkpoints_and_the_best_one_are_kept(tmp_path):
    # The loss rises with every step, so the first checkpoint is the best.
    Walk().fit(tmp_path, 20)
    assert kept(tmp_path) == [20, 16, 4]
    three = settings(20).model_copy(update={"keep_checkpoints": 3})
    Walk().fit(tmp_path / "three", 20, train=three)
    assert kept(tmp_path / "three") == [20, 16, 12, 4]


def test_rise_of_the_held_out_loss_above_its_lowest_is_logged_and_alarms(tmp_path, capsys):
    history = Walk().fit(tmp_path, 12, alarms=[OVERFITTING])
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    rises = [entry["eval_loss_rise"] for entry in history if "eval_loss" in entry]
    assert rises == pytest.approx([0.0, losses[1] / losses[0] - 1, losses[2] / losses[0] - 1])
    assert "overfitting: eval_loss_rise" in " ".join(capsys.readouterr().err.split())


def test_best_weights_are_exported_on_request(tmp_path, capsys):
    four = Walk()
    four.fit(tmp_path / "four", 4)
    last, best, later = Walk(), Walk(), Walk()
    last.fit(tmp_path, 12)
    assert last.value.numpy() != four.value.numpy()
    by_loss = settings(12).model_copy(update={"export": "best"})
    best.fit(tmp_path / "best", 12, train=by_loss)
    assert best.value.numpy() == four.value.numpy()
    assert "weights of step 4 are exported, whose held-out loss is the lowest" in capsys.readouterr().err
    # Of a finished run too, without training.
    later.fit(tmp_path, 12, train=by_loss)
    assert later.value.numpy() == four.value.numpy()
    assert later.starts == [12]


def test_last_weights_are_exported_if_the_best_checkpoint_is_damaged(tmp_path, capsys):
    last, again = Walk(), Walk()
    last.fit(tmp_path, 12)
    (tmp_path / "checkpoints" / "ckpt-4.index").write_bytes(b"damaged")
    again.fit(tmp_path, 12, train=settings(12).model_copy(update={"export": "best"}))
    assert again.value.numpy() == last.value.numpy()
    said = "".join(capsys.readouterr().err.split())  # lines are wrapped anywhere
    assert "ckpt-4isdamagedandkeptasdamaged-ckpt-4" in said
    assert "thelastweightsareexported:thoseofstep4,thebest,aremissingordamaged" in said


def signal_at(monkeypatch, step: int, *numbers: int) -> None:
    """Send signals to this process while a step is made."""
    update = Progress.update

    def interrupted(progress, done, metrics):
        update(progress, done, metrics)
        if done == step:
            for number in numbers:
                signal.raise_signal(number)

    monkeypatch.setattr(Progress, "update", interrupted)


def test_sigterm_saves_a_checkpoint_and_has_an_exit_code_of_its_own(tmp_path, monkeypatch):
    whole, stopped, resumed = Walk(), Walk(), Walk()
    whole.fit(tmp_path / "whole", 12)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        signal_at(patch, 6, signal.SIGTERM)
        with pytest.raises(Preempted) as caught:
            stopped.fit(tmp_path, 12)
    assert caught.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert kept(tmp_path) == [6, 4]
    resumed.fit(tmp_path, 12)
    assert resumed.starts == [6]
    assert resumed.value.numpy() == whole.value.numpy()


def test_sigterm_at_the_last_step_ends_a_training_that_is_complete(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, 8, signal.SIGTERM)
        with pytest.raises(Preempted):
            Walk().fit(tmp_path, 8)
    assert kept(tmp_path)[0] == 8
    assert Walk().fit(tmp_path, 8)[-1]["step"] == 8


def test_signal_that_nobody_has_answered_acts_at_the_end():
    def unanswered() -> None:
        with Preemption() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested

    with pytest.raises(KeyboardInterrupt):
        unanswered()


def test_no_step_is_missing_in_the_history_of_a_stopped_run(tmp_path, monkeypatch):
    sparse = settings(12).model_copy(update={"log_every": 4})
    with monkeypatch.context() as patch:
        signal_at(patch, 6, signal.SIGTERM)
        with pytest.raises(Preempted):
            Walk(skipped=range(5, 6)).fit(tmp_path, 12, train=sparse)
    history = Walk(skipped=range(5, 6)).fit(tmp_path, 12, train=sparse)
    assert [entry["step"] for entry in history] == [4, 6, 8, 12]
    assert [entry["skipped"] for entry in history] == [0, 1, 0, 0]


def test_interrupt_saves_a_checkpoint_first(tmp_path, monkeypatch):
    signal_at(monkeypatch, 6, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Walk().fit(tmp_path, 12)
    assert kept(tmp_path) == [6, 4]


def test_second_signal_stops_at_once(tmp_path, monkeypatch):
    signal_at(monkeypatch, 6, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Walk().fit(tmp_path, 12)
    assert kept(tmp_path) == [4]


def test_checkpoints_are_also_written_by_time(tmp_path):
    often = settings(8).model_copy(
        update={"checkpoint_minutes": 1e-9, "keep_checkpoints": 9, "checkpoint_every": 8, "log_every": 8}
    )
    history = Walk().fit(tmp_path, 8, train=often)
    assert kept(tmp_path) == [8, 6, 4, 2]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [2, 4, 6, 8]


@pytest.mark.parametrize("step", [4, 8, 12])
def test_checkpoint_that_cannot_be_written_stops_the_run(tmp_path, step):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / f"ckpt-{step}_temp").write_text("a file where TensorFlow wants a folder")
    with pytest.raises(TrainingError, match=r"checkpoints must be written to .*, got"):
        Walk().fit(tmp_path, 12)


def test_best_checkpoint_stays_until_a_better_one_is_written(tmp_path):
    variable = keras.Variable(1.0)
    keeper = Checkpointer({"model": [variable]}, str(tmp_path / "checkpoints"), keep=1)
    for step, best in ((2, 2), (4, 2)):
        keeper.save(step, tf.constant(0.0), best=best)
    keeper.finish()
    (tmp_path / "checkpoints" / "ckpt-6_temp").write_text("a file where TensorFlow wants a folder")
    keeper.save(6, tf.constant(0.0), best=6)
    with pytest.raises(TrainingError):
        keeper.finish()
    assert kept(tmp_path) == [4, 2]
    keeper.save(8, tf.constant(0.0), best=8)
    keeper.finish()
    assert kept(tmp_path) == [8]


def test_finished_training_lets_go_of_its_weights(tmp_path):
    walk = Walk()
    held = weakref.ref(walk.value.value)
    walk.fit(tmp_path, 4)
    del walk
    gc.collect()
    assert held() is None


class Wobbly(keras.Model):
    """A model with all that a resume easily loses: layers in a list, batch statistics, dropout seeds."""

    def __init__(self):
        super().__init__()
        self.parts = [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
        self(tf.zeros([1, 2]))

    def call(self, x, training=False):
        dense, norm, dropout = self.parts
        return dropout(norm(dense(x), training=training), training=training)


starts: list[int] = []


def steps_of(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


def train_wobbly(folder, steps: int, **options) -> list[np.ndarray]:
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    state = TrainState(model := Wobbly(), settings(16).model_copy(update={"ema_decay": 0.9}))

    def losses(batch):
        return {"loss": tf.reduce_mean(tf.square(model(batch["x"], training=True) - 1.0))}

    fit(
        "wobbly",
        settings(steps).model_copy(update=options),
        step=training_step([state], loss_gradients(state, losses)),
        batches=noise,
        variables={"wobbly": state.variables},
        evaluate=lambda: {"loss": tf.constant(0.0)},
        checkpoints=str(folder),
        logs=f"{folder}_logs",
    )
    return [variable.numpy() for variable in state.variables]


def noise(first_step: int, host: tf.distribute.InputContext) -> tf.data.Dataset:
    starts.append(first_step)
    steps = tf.data.Dataset.range(first_step, 10_000)
    rows = steps.map(lambda i: {"x": tf.random.stateless_normal([4, 2], tf.stack([i, i]))})
    return rows.map(lambda row: {"x": tf.ensure_shape(row["x"], [4, 2])})


def test_weights_of_non_finite_held_out_loss_are_not_saved(tmp_path):
    with pytest.raises(TrainingError, match="walk: held-out loss must be finite, got nan at step 4"):
        Walk(dies_at=1).fit(tmp_path, 8)
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")) is None


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


def test_skipped_steps_are_counted_and_excluded_from_means(tmp_path):
    history = Walk(skipped=range(1, 3)).fit(tmp_path, 6)
    assert [entry["skipped"] for entry in history] == [1, 1, 0]
    # Step 0 gives 0.5, steps 1 and 2 are skipped, step 3 gives 3.25.
    assert [entry["loss"] for entry in history[:2]] == [0.5, 3.25]


def test_metrics_are_absent_if_all_steps_were_skipped(tmp_path, capsys):
    history = Walk(skipped=range(2, 4)).fit(tmp_path, 4, alarms=[Alarm("loss", "low", "", below=1.0)])
    held_out = {"eval_loss", "eval_loss_rise", "eval_twice"}
    assert history[1].keys() == {"step", "steps_per_second", "skipped", *held_out}
    assert history[1]["skipped"] == 2
    assert "at step 4" not in capsys.readouterr().err


def test_nine_consecutive_skipped_steps_do_not_stop_the_run(tmp_path):
    history = Walk(skipped=range(3, 12)).fit(tmp_path, 16)
    assert sum(entry["skipped"] for entry in history) == 9


def test_ten_consecutive_skipped_steps_stop_the_run(tmp_path):
    with pytest.raises(
        TrainingError, match="walk: loss or gradients were not finite for 10 steps in a row, up to step 14;"
    ):
        Walk(skipped=range(4, 16)).fit(tmp_path, 20)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.index"))[0] == "ckpt-12.index"


def test_the_tenth_skipped_step_stops_the_run_wherever_it_falls_in_a_call(tmp_path):
    with pytest.raises(TrainingError, match="not finite for 10 steps in a row, up to step 13;"):
        Walk(skipped=range(3, 16)).fit(tmp_path, 20)


def test_consecutive_skipped_steps_are_counted_across_a_resume(tmp_path):
    # Four steps are skipped up to step 8, where the run stops; after six more, ten in a row are skipped.
    Walk(skipped=range(4, 8)).fit(tmp_path, 8)
    with pytest.raises(TrainingError, match="not finite for 10 steps in a row, up to step 14;"):
        Walk(skipped=range(4, 16)).fit(tmp_path, 20)


def test_alarm_is_said_when_its_metric_leaves_its_bounds(tmp_path, capsys):
    # The loss rises over the logged steps, 0.875, 3.47, 7.12, 11.03; the first two are below 4.
    Walk().fit(tmp_path, 8, alarms=[Alarm("loss", "too easy", "take harder data", below=4.0)])
    said = [line for line in capsys.readouterr().err.splitlines() if "too easy" in line]
    assert said == ["walk: too easy: loss 0.875 is below 4 at step 2; take harder data"]


def test_training_and_held_out_values_are_two_runs_of_one_tag(tmp_path):
    walk = Walk()
    walk.fit(tmp_path, 4, pictures=lambda: {"square": walk.value.value * tf.ones([3, 2, 2, 3])})
    train, held_out = (events.values(tmp_path / "logs" / name) for name in ("train", "held_out"))
    assert sorted(train["loss"]) == [2, 4]
    assert held_out["loss"] == {4: pytest.approx(float(walk.value.value))}
    assert {"skipped", "steps_per_second"} <= train.keys()
    assert {"loss", "twice", "square"} <= held_out.keys() <= {"loss", "twice", "square", "loss_rise"}
    # Three images in two rows of two.
    assert events.picture(tmp_path / "logs" / "held_out", "square", 4).shape == (4, 4, 3)


def test_log_every_must_be_a_multiple_of_steps_per_call():
    with pytest.raises(ValueError, match="log_every must be a multiple of steps_per_call 2, got 3"):
        Train(
            steps=6,
            batch_size=1,
            steps_per_call=2,
            log_every=3,
            checkpoint_every=4,
            optimizer=Optimizer(learning_rate=0.1),
        )
