import pytest
import tensorflow as tf

from tests.trainers.vim.test_model import model
from trainers.transformer import Dense
from trainers.vim import slots
from trainers.vim.cached import Weights
from trainers.vim.config import Sampler as Options


def plan(rows: int, **options) -> tuple[int, int]:
    vim = model()  # of 6 places
    made = slots.plan(vim, Weights.of(vim, tf.float32), Options(**options), tf.constant(rows))
    return int(made.rows), int(made.window)


@pytest.mark.parametrize(
    ("rows", "together"), [(1, 2), (2, 2), (3, 4), (16, 16), (17, 32), (64, 64), (65, 64)]
)
def test_sequential_drawing_takes_the_smallest_products_that_hold_all_rows(rows, together):
    assert plan(rows, engine="sequential") == (together, 1)


def test_largest_products_are_an_option():
    assert plan(100, engine="sequential", max_slots=16) == (16, 1)
    assert plan(100, engine="sequential", max_slots=128) == (128, 1)


@pytest.mark.parametrize(("rows", "window"), [(1, 4), (2, 4), (4, 4), (5, 2), (8, 2), (9, 1), (64, 1)])
def test_jacobi_fills_products_with_further_places(rows, window):
    assert plan(rows, engine="jacobi", jacobi_slots=16)[1] == window


@pytest.mark.parametrize("engine", ["sequential", "jacobi"])
@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_where_bits_depend_on_the_number_of_rows_all_products_have_the_same(monkeypatch, engine, rows):
    affine = Dense._affine

    def uneven(self, x, kernel, bias):
        few = tf.cast(tf.shape(x)[0] != slots.REFERENCE, tf.float32)
        return affine(self, x, kernel, bias) + few

    monkeypatch.setattr(Dense, "_affine", uneven)
    together, window = plan(rows, engine=engine, jacobi_slots=8)
    assert together * window == slots.REFERENCE
