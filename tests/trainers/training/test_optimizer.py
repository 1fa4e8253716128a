import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training.config import Optimizer
from trainers.training.optimizer import adamw, descent_step, schedule

OPTIONS = Optimizer(learning_rate=1e-4, final_learning_rate=5e-5, warmup_steps=50)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (25, 0.5e-4), (50, 1e-4), (275, 0.75e-4), (500, 5e-5), (1000, 5e-5)],
)
def test_schedule_at_its_corners(step, rate):
    assert float(schedule(OPTIONS, 500)(step)) == pytest.approx(rate, rel=1e-5, abs=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert float(schedule(Optimizer(learning_rate=0.1), 10)(0)) == pytest.approx(0.1)


def test_decay_is_decoupled_from_the_gradient_and_spares_biases():
    options = Optimizer(learning_rate=0.1, weight_decay=0.01)
    kernel = keras.Variable(np.full([2], 3.0, "float32"), name="kernel")
    bias = keras.Variable(np.full([2], 3.0, "float32"), name="bias")
    adamw(options, 10, [kernel, bias]).apply([tf.zeros([2]), tf.zeros([2])], [kernel, bias])
    # No gradient, no step of Adam's: what moves is the decay alone, w - rate * decay * w.
    np.testing.assert_allclose(kernel.numpy(), 3.0 * (1 - 0.1 * 0.01), rtol=1e-6)
    np.testing.assert_array_equal(bias.numpy(), 3.0)


class Table(keras.Model):
    def __init__(self):
        super().__init__()
        self.rows = self.add_weight(name="rows", shape=(3, 2), initializer="ones")


def test_a_row_gathered_twice_moves_by_its_summed_gradient():
    def moved(gather) -> np.ndarray:
        table = Table()
        optimizer = adamw(Optimizer(learning_rate=0.1, clip_norm=1.0), 10, table.trainable_variables)
        step = descent_step(
            table, optimizer, lambda batch: {"loss": tf.reduce_sum(gather(table.rows.value) * batch["w"])}
        )
        step({"w": tf.constant([[1.0, 2.0], [3.0, 4.0]])})
        step({"w": tf.constant([[-1.0, 0.5], [2.0, 0.0]])})
        return table.rows.numpy()

    sparse = moved(lambda rows: tf.gather(rows, [1, 1]))
    dense = moved(lambda rows: tf.matmul(tf.constant([[0.0, 1.0, 0.0]] * 2), rows))
    np.testing.assert_allclose(sparse, dense, rtol=1e-5)
