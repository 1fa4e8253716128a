import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training import job, warm_start
from trainers.training.checkpoint import Checkpointer
from trainers.training.config import PUSHED, Augmentation, Job, Optimizer, Train
from trainers.training.errors import TrainingError
from trainers.training.train_state import TrainState

TRAIN = Train(steps=4, batch_size=1, ema_decay=0.9, optimizer=Optimizer(learning_rate=0.1))


def state(seed: int, units: int = 3) -> TrainState:
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.layers.Dense(units), keras.layers.BatchNormalization()])
    network.build([1, 2])
    return TrainState(network, TRAIN)


def values(one: TrainState) -> list[np.ndarray]:
    return [variable.numpy() for variable in one.network.variables]


def save_run(
    folder, states: dict[str, TrainState], *, training: str = "2026-11-27_abcd", step: int = 4
) -> None:
    checkpoints = folder / "checkpoints" / "tokenizer" / training
    variables = {name: one.variables for name, one in states.items()}
    keeper = Checkpointer(variables, str(checkpoints), keep=2)
    keeper.save(step, tf.constant(0.0), best=0)
    keeper.finish()


def save_model(folder, one: TrainState) -> None:
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in one.network.variables]
    tf.saved_model.save(module, str(folder))


def assert_taken(found: TrainState, wanted: TrainState) -> None:
    for one, other in zip(values(found), values(wanted), strict=True):
        np.testing.assert_array_equal(one, other)


def test_run_gives_weights_of_all_networks_and_optimizers_begin_anew(tmp_path):
    old = {"tokenizer": state(1), "adversary": state(2)}
    for one in old.values():
        gradients = [tf.ones_like(variable.value) for variable in one.trainable_variables]
        one.apply_updates(gradients, tf.constant(1.0), replica=0)
    save_run(tmp_path, old)
    new = {"tokenizer": state(3), "adversary": state(4)}
    line = warm_start.load(str(tmp_path), new, stage="tokenizer")
    assert line.startswith("starts with the tokenizer and adversary of ")
    assert line.endswith("checkpoints/tokenizer/2026-11-27_abcd/ckpt-4")
    for name in new:
        assert_taken(new[name], old[name])
        assert new[name].optimizer.iterations == 0
        averages = [average.numpy() for average in new[name].ema.variables]
        np.testing.assert_array_equal(averages[0], values(old[name])[0])


def test_newest_checkpoint_of_the_newest_training_is_taken(tmp_path):
    save_run(tmp_path, {"tokenizer": state(1)}, training="a", step=40)
    save_run(tmp_path, {"tokenizer": state(2)}, training="b", step=3)
    save_run(tmp_path, {"tokenizer": state(3)}, training="b", step=4)
    new = state(4)
    assert warm_start.load(str(tmp_path), {"tokenizer": new}, stage="tokenizer").endswith("b/ckpt-4")
    assert_taken(new, state(3))


@pytest.mark.parametrize("adversary", [None, 5], ids=["missing", "of another size"])
def test_adversary_that_is_missing_or_does_not_fit_begins_anew(tmp_path, adversary):
    others = {} if adversary is None else {"adversary": state(2, units=adversary)}
    save_run(tmp_path, {"tokenizer": state(1), **others})
    new = {"tokenizer": state(3), "adversary": state(4)}
    assert warm_start.load(str(tmp_path), new, stage="tokenizer").endswith("; adversary anew")
    assert_taken(new["tokenizer"], state(1))
    assert_taken(new["adversary"], state(4))


def test_saved_model_and_the_newest_of_its_versions_give_weights(tmp_path):
    save_model(tmp_path / "9", state(1))
    save_model(tmp_path / "10", state(2))
    new = {"tokenizer": state(3), "adversary": state(4)}
    assert "starts with the tokenizer of" in warm_start.load(str(tmp_path), new, stage="tokenizer")
    assert_taken(new["tokenizer"], state(2))
    assert_taken(new["adversary"], state(4))
    warm_start.load(str(tmp_path / "9"), new, stage="tokenizer")
    assert_taken(new["tokenizer"], state(1))


def test_other_model_is_refused_with_the_first_difference(tmp_path):
    save_run(tmp_path, {"tokenizer": state(1, units=7)})
    with pytest.raises(TrainingError, match=r"train\.warm_start must be of the same model, got .*kernel is "):
        warm_start.load(str(tmp_path), {"tokenizer": state(2)}, stage="tokenizer")
    save_model(tmp_path / "other" / "1", state(1, units=7))
    with pytest.raises(TrainingError, match=r"/other/1: .*is \[2, 3\] here and \[2, 7\] there"):
        warm_start.load(str(tmp_path / "other"), {"tokenizer": state(2)}, stage="tokenizer")


def test_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "checkpoints" / "vim" / "a").mkdir(parents=True)
    with pytest.raises(
        TrainingError, match=r"train\.warm_start must be a SavedModel, .* checkpoints/vim, got"
    ):
        warm_start.find(str(tmp_path), stage="vim")


def test_damaged_and_foreign_weights_are_refused(tmp_path):
    save_run(tmp_path, {"tokenizer": state(1)})
    (index,) = tmp_path.glob("checkpoints/*/*/*.index")
    index.write_bytes(b"damaged")
    with pytest.raises(
        TrainingError, match=r"train\.warm_start must be weights of this project, got .*ckpt-4: "
    ):
        warm_start.load(str(tmp_path), {"tokenizer": state(2)}, stage="tokenizer")
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"))
    with pytest.raises(TrainingError, match=r"must be weights of this project, got .*variables_of_model"):
        warm_start.load(str(tmp_path), {"tokenizer": state(2)}, stage="tokenizer")


def test_version_changes_with_the_weights(tmp_path):
    save_run(tmp_path, {"tokenizer": state(1)})
    first = warm_start.find(str(tmp_path), stage="tokenizer").version
    assert warm_start.find(str(tmp_path), stage="tokenizer").version == first
    save_run(tmp_path, {"tokenizer": state(2)})
    assert warm_start.find(str(tmp_path), stage="tokenizer").version != first
    with pytest.raises(TrainingError, match=r"train\.warm_start must be the weights that the run began with"):
        warm_start.load(str(tmp_path), {"tokenizer": state(3)}, stage="tokenizer", version=first)


def test_weights_that_were_found_are_found_again_by_their_path(tmp_path):
    save_run(tmp_path, {"tokenizer": state(1)}, training="a")
    start = warm_start.find(str(tmp_path), stage="tokenizer")
    save_run(tmp_path, {"tokenizer": state(2)}, training="b")
    new = state(3)
    warm_start.load(start.path, {"tokenizer": new}, stage="tokenizer", version=start.version)
    assert_taken(new, state(1))


def test_the_last_pushed_model_is_taken_when_training_begins_and_none_is_no_error(tmp_path, capsys):
    served = tmp_path / "serving" / "vim"
    run = Job(
        preset="digits",
        seed=0,
        image_size=8,
        augmentation=Augmentation(),
        checkpoints=str(tmp_path),
        logs=str(tmp_path),
        start=PUSHED,
    )
    train = TRAIN.model_copy(update={"warm_start": str(served)})
    new, untouched = state(3), values(state(3))
    job.warm_start(run, train, {"vim": new}, stage="vim")
    for one, other in zip(values(new), untouched, strict=True):
        np.testing.assert_array_equal(one, other)
    assert f"vim: begins anew: nothing was pushed to {served} yet" in capsys.readouterr().err
    save_model(served / "1", state(1))
    save_model(served / "2", state(2))
    job.warm_start(run, train, {"vim": new}, stage="vim")
    assert_taken(new, state(2))
    assert f"vim: starts with the vim of {served / '2'}" in capsys.readouterr().err
