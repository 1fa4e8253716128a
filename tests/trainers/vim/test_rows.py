import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.vim.test_model import SIZE
from trainers.vim.config import Model, RandomOrder, Stage2
from trainers.vim.rows import random_share, row_augmentation

TOKENS, NO_CLASS, BATCH = 5, 3, 10
ANNEALED = {"anneal_from": 100, "anneal_until": 300}


def rows(step: int, **options) -> dict[str, np.ndarray]:
    """A thousand augmented rows whose indices in the data belong to one step."""
    augment = row_augmentation(
        Model(transformer=SIZE, **options), tokens=TOKENS, no_class=NO_CLASS, batch_size=BATCH
    )
    places = tf.data.Dataset.range(step * BATCH, step * BATCH + BATCH).repeat(100).enumerate()
    made = places.map(
        lambda seed, place: augment({"label": tf.constant(1), "place": place}, tf.stack([seed, place]))
    )
    return next(made.batch(1000).as_numpy_iterator())


def test_class_dropout_drops_its_share_of_labels():
    labels = rows(0, class_dropout=0.3)["label"]
    assert set(labels) == {1, NO_CLASS}
    assert np.mean(labels == NO_CLASS) == pytest.approx(0.3, abs=0.06)
    assert set(rows(0, class_dropout=0.0)["label"]) == {1}
    assert set(rows(0, class_dropout=1.0, class_conditional=False)["label"]) == {1}


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1.0), (100, 1.0), (150, 0.75), (299, 0.005), (300, 0.0), (900, 0.0)]
)
def test_random_share_anneals_linearly_from_one_to_zero(step, share):
    assert float(random_share(RandomOrder(**ANNEALED), tf.constant(step))) == pytest.approx(share)


def test_orders_are_uniformly_random_permutations_before_annealing():
    order = rows(0, random_order=ANNEALED, class_dropout=0.0)["order"]
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(TOKENS), [1000, 1]))
    # Each position comes first equally often.
    assert np.bincount(order[:, 0]) == pytest.approx(200, abs=60)


def test_orders_are_half_raster_midway_and_all_raster_at_the_end():
    raster = np.arange(TOKENS)
    half = np.all(rows(200, random_order=ANNEALED)["order"] == raster, axis=1)
    # Half of them, and one in 5! of the random ones.
    assert np.mean(half) == pytest.approx(0.5 + 0.5 / 120, abs=0.06)
    assert np.all(rows(300, random_order=ANNEALED)["order"] == raster)


def test_class_dropout_is_independent_of_the_order():
    made = rows(200, random_order=ANNEALED, class_dropout=0.5)
    dropped, raster = made["label"] == NO_CLASS, np.all(made["order"] == np.arange(TOKENS), axis=1)
    assert abs(np.corrcoef(dropped, raster)[0, 1]) < 0.1


def test_anneal_until_outside_its_bounds_is_refused():
    train = {"steps": 200, "batch_size": 4, "optimizer": {"learning_rate": 1e-3}}
    with pytest.raises(ValueError, match=r"anneal_until must be at most train.steps 200, got 300"):
        Stage2.model_validate({"model": {"transformer": SIZE, "random_order": ANNEALED}, "train": train})
    with pytest.raises(ValueError, match="anneal_until must be above anneal_from 5, got 5"):
        RandomOrder(anneal_from=5, anneal_until=5)
