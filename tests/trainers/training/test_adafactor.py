import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training.adafactor import Adafactor, dequantize, quantize, second_moment_decay
from trainers.training.config import Optimizer, Train, Transformer
from trainers.training.optimizer import DecoupledOptimizer
from trainers.training.step import TrainState, loss_gradients, training_step
from trainers.vim.config import Model
from trainers.vim.model import VIM

RATE = 0.1


def variable(shape: tuple[int, ...], name: str = "kernel") -> keras.Variable:
    return keras.Variable(np.zeros(shape, "float32"), name=name)


def normal(shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def moved(gradients: list[np.ndarray], **options: float) -> np.ndarray:
    """The value after these gradients of a weight that starts at 0."""
    weight = variable(gradients[0].shape)
    optimizer = Adafactor(RATE, **options)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [weight])
    return weight.numpy()


def rank_1(rows: list[float], columns: list[float]) -> np.ndarray:
    return np.outer(rows, columns).astype("float32")


@pytest.mark.parametrize("gradient", [rank_1([1.0, -2.0, 30.0], [0.1, 5.0]), np.float32([3.0, -0.2])])
def test_first_step_is_a_tenth_of_the_learning_rate_for_any_gradient(gradient):
    # At the first step V is the squared gradient itself, so the update is its sign.
    np.testing.assert_allclose(moved([gradient]), -RATE * 0.1 * np.sign(gradient), rtol=1e-5)


def test_second_moment_decay_grows_from_zero_to_beta_2():
    def decay(step: float) -> float:
        return float(second_moment_decay(tf.constant(step), 0.96))

    assert decay(1.0) == 0.0
    assert decay(2.0) == pytest.approx(0.96 / 1.96, rel=1e-5)
    assert decay(450_000.0) == pytest.approx(0.96)


def test_second_moment_decay_equals_adams_bias_correction():
    gradients = [normal([4], seed=seed) for seed in range(6)]
    squares = np.zeros(4)
    weight, slow = np.zeros(4), np.zeros(4)
    for step, gradient in enumerate(gradients, 1):
        squares = 0.9 * squares + 0.1 * gradient**2
        update = gradient / np.sqrt(squares / (1 - 0.9**step))
        slow = 0.5 * slow + 0.5 * RATE * update / max(1.0, np.sqrt(np.mean(update**2)))
        weight -= slow
    np.testing.assert_allclose(moved(gradients, beta_1=0.5, beta_2=0.9), weight, rtol=1e-4)


def test_factored_second_moment_is_exact_for_rank_1_squares():
    # Multiples of one gradient of rank 1: V is its square times a running mean of the squared multiples.
    shape, sizes = rank_1([1.0, 3.0, 0.5], [2.0, -0.1, 1.0, 4.0]), [1.0, 2.0, 0.5]
    as_matrix = moved([size * shape for size in sizes], beta_1=0.0)
    as_vector = moved([np.ravel(size * shape) for size in sizes], beta_1=0.0)
    np.testing.assert_allclose(as_matrix.ravel(), as_vector, rtol=1e-5)


def test_factored_second_moment_keeps_row_and_column_means():
    gradient, weight = normal([5, 3]), variable((5, 3))
    optimizer = Adafactor(RATE, beta_1=0.0)
    optimizer.apply([tf.constant(gradient)], [weight])
    rows, columns = (gradient**2).mean(axis=1), (gradient**2).mean(axis=0)
    update = gradient / np.sqrt(np.outer(rows, columns) / rows.mean())
    update /= max(1.0, np.sqrt(np.mean(update**2)))
    np.testing.assert_allclose(weight.numpy(), -RATE * update, rtol=1e-5)


def test_update_is_clipped_to_a_root_mean_square_of_1():
    quiet, loud = np.full([2, 2], 0.01, "float32"), np.full([2, 2], 1.0, "float32")
    after_one = moved([quiet] * 20, beta_1=0.0)
    np.testing.assert_allclose(moved([quiet] * 20 + [loud], beta_1=0.0) - after_one, -RATE, rtol=1e-4)
    # In the opposite order the update is far below 1 and is not clipped.
    steps = moved([loud] * 20, beta_1=0.0), moved([loud] * 20 + [quiet], beta_1=0.0)
    assert np.all(np.abs(steps[1] - steps[0]) < 0.02 * RATE)


def test_rows_and_columns_of_zero_gradient_do_not_change():
    gradient = rank_1([1e10, 0.0, 1e-10], [1.0, 0.0, 1.0])
    weight = moved([gradient] * 3)
    assert np.all(np.isfinite(weight))
    np.testing.assert_array_equal(weight[1], 0.0)
    np.testing.assert_array_equal(weight[:, 1], 0.0)


def test_quantization_error_is_at_most_half_a_scale_per_column():
    x = normal([50, 4]) * np.float32([1e-6, 1.0, 1e3, 0.0])
    levels, scale = quantize(tf.constant(x))
    assert (levels.dtype, scale.shape) == (tf.int8, (4,))
    np.testing.assert_allclose(scale, np.abs(x).max(axis=0) / 127, rtol=1e-6)
    assert np.all(np.abs(dequantize(levels, scale) - x) <= 0.5001 * scale)
    np.testing.assert_array_equal(np.abs(levels).max(axis=0), [127, 127, 127, 0])
    again, same = quantize(dequantize(levels, scale))
    np.testing.assert_array_equal(again, levels)
    np.testing.assert_allclose(same, scale, rtol=1e-6)


def test_moment_decays_to_4_scales_once_its_gradient_is_zero():
    # The second row sets the scale; the first has a gradient only until the scale has settled.
    gradients = [np.float32([[1.0], [1.0]])] * 60 + [np.float32([[0.0], [1.0]])] * 100
    weight, optimizer = variable((2, 1)), Adafactor(RATE)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [weight])
    assert slot(optimizer, "moment").tolist() == [[4], [127]]


def slot(optimizer: Adafactor, name: str) -> np.ndarray:
    (found,) = (v for v in optimizer.variables if v.name.endswith(name))
    return found.numpy()


def test_weights_are_updated_by_the_unrounded_moment():
    gradient = normal([6, 2])
    weight, optimizer = variable((6, 2)), Adafactor(RATE, beta_1=0.5)
    optimizer.apply([tf.constant(gradient)], [weight])
    kept = slot(optimizer, "moment") * slot(optimizer, "scale")
    off = np.abs(kept + weight.numpy())
    assert np.all(off <= 0.5001 * slot(optimizer, "scale"))
    assert off.max() > 0.01 * slot(optimizer, "scale").max()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 32), 64 * 32 + 4 * (64 + 2 * 32)),
        ((3, 3, 16, 32), 9 * 16 * 32 + 4 * (9 * 16 + 2 * 32)),
        ((1, 32), 32 + 4 * (1 + 2 * 32)),
        ((32,), 8 * 32),
        ((), 8),
    ],
)
def test_slots_take_the_expected_bytes_for_each_shape(shape, expected):
    optimizer = Adafactor(RATE)
    before = size_of(optimizer.variables)
    optimizer.build([variable(shape)])
    assert size_of(optimizer.variables) - before == expected


def size_of(variables: list[keras.Variable]) -> int:
    return sum(v.numpy().nbytes for v in variables)


@pytest.mark.slow
def test_deserialized_optimizer_trains_a_plain_keras_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input([2]), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    made = Adafactor(keras.optimizers.schedules.CosineDecay(0.05, 60), beta_1=0.8, weight_decay=1e-4)
    optimizer = keras.optimizers.deserialize(
        keras.optimizers.serialize(made), custom_objects={"Adafactor": Adafactor}
    )
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.weight_decay) == (0.8, 0.96, 1e-4)
    model.compile(optimizer, "mse")
    x = normal([64, 2])
    history = model.fit(x, x.sum(axis=1, keepdims=True), epochs=15, batch_size=16, verbose=0)
    assert history.history["loss"][-1] < 0.05 * history.history["loss"][0]


def test_duplicate_embedding_rows_use_their_summed_gradient():
    slices = tf.IndexedSlices(
        tf.constant([[1.0, 2.0], [3.0, -1.0]]), tf.constant([1, 1]), tf.constant([3, 2])
    )
    weight, optimizer = variable((3, 2)), Adafactor(RATE)
    optimizer.apply([slices], [weight])
    np.testing.assert_allclose(weight.numpy(), moved([tf.convert_to_tensor(slices).numpy()]))


def optimizer_of(**options: float | str) -> DecoupledOptimizer:
    names = (("kernel", (6, 4)), ("bias", (4,)))
    settings = Optimizer(name="adafactor", learning_rate=RATE, weight_decay=0.0, **options)
    return DecoupledOptimizer(settings, 100, [variable(shape, name) for name, shape in names])


def steps(optimizer: DecoupledOptimizer, seeds: range, *, compiled: bool = False) -> list[np.ndarray]:
    step = tf.function(
        lambda gradients: optimizer.apply_updates(gradients, tf.constant(1.0)), jit_compile=compiled
    )
    for seed in seeds:
        step(
            [
                tf.constant(normal(v.shape, seed=seed + 10 * len(v.shape)))
                for v in optimizer.trainable_variables
            ]
        )
    return [np.array(v) for v in [*optimizer.trainable_variables, *optimizer.variables]]


def test_xla_updates_match_graph_updates():
    for one, other in zip(
        steps(optimizer_of(), range(5)), steps(optimizer_of(), range(5), compiled=True), strict=True
    ):
        # A moment halfway between two levels may be rounded to either.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1.0 if one.dtype == np.int8 else 1e-5)


def test_resume_from_a_checkpoint_is_bit_exact(tmp_path):
    whole = optimizer_of()
    steps(whole, range(4))
    checkpoint = tf.train.Checkpoint(all=[v.value for v in [*whole.trainable_variables, *whole.variables]])
    path = checkpoint.save(tmp_path / "ckpt")
    expected = steps(whole, range(4, 8))

    resumed = optimizer_of()
    restored = tf.train.Checkpoint(all=[v.value for v in [*resumed.trainable_variables, *resumed.variables]])
    restored.restore(path).assert_consumed()
    for one, other in zip(expected, steps(resumed, range(4, 8)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


CODES, TOKENS, CLASSES, STEPS = 16, 16, 8, 300


def drawn(seed: int, count: int) -> dict[str, tf.Tensor]:
    """Sample tokens [count, TOKENS] and classes [count] from one Markov chain per class.

    A token follows from its predecessor by the class's permutation in 80 % of cases and is uniformly random
    in the other 20 %. A token after the first then has 0.99 nats and the first ln 16, on average 1.10 nats a
    token; a uniform model has ln 16 = 2.77.
    """
    random = np.random.default_rng(seed)
    following = np.stack([np.random.default_rng(99 + label).permutation(CODES) for label in range(CLASSES)])
    labels = random.integers(CLASSES, size=count)
    tokens = random.integers(CODES, size=(count, TOKENS))
    for place in range(1, TOKENS):
        follows = random.random(count) < 0.8
        tokens[:, place] = np.where(follows, following[labels, tokens[:, place - 1]], tokens[:, place])
    return {"tokens": tf.constant(tokens, tf.int32), "label": tf.constant(labels, tf.int32)}


def held_out_loss(rule: str) -> float:
    """Train a small VIM with this optimizer; return its held-out loss in nats a token."""
    keras.utils.set_random_seed(0)
    size = Transformer(blocks=2, heads=2, width=32, hidden=64)
    model = VIM(Model(transformer=size, dropout=0.0), tokens=TOKENS, codebook_size=CODES, classes=CLASSES)
    options = Optimizer(
        name=rule,
        learning_rate=3e-3,
        final_learning_rate=3e-4,
        warmup_steps=20,
        beta_2=0.96,
        weight_decay=0.0,
    )
    state = TrainState(model, Train(steps=STEPS, batch_size=64, optimizer=options))

    def losses(batch):
        return {"loss": -tf.reduce_mean(model.log_likelihood(batch["tokens"], batch["label"])) / TOKENS}

    step = tf.function(training_step([state], loss_gradients(state, losses)), autograph=False)
    for index in range(STEPS):
        step(drawn(index, 64))
    return float(losses(drawn(STEPS, 2048))["loss"])


@pytest.mark.slow
def test_small_vim_reaches_the_loss_of_float32_adam():
    adam = held_out_loss("adam")
    assert adam < 1.2
    assert held_out_loss("adafactor") == pytest.approx(adam, rel=0.02)
