import numpy as np
import pytest
import tensorflow as tf

from trainers.kv_cache import CHUNK, ChunkedCache, FlatCache, KVCache, Shape

HEADS, HEAD_DIM = 3, 8


def shape(rows: int, positions: int) -> Shape:
    return Shape(rows, positions, HEADS, HEAD_DIM, tf.float32)


def normal(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def plain(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, position: int) -> np.ndarray:
    """[H, d] of one row in float64."""
    keys, values = keys[: position + 1].astype(np.float64), values[: position + 1]
    scores = np.einsum("hd,nhd->hn", queries, keys)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.einsum("hn,nhd->hd", weights / weights.sum(axis=1, keepdims=True), values)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("positions", [5, CHUNK, 3 * CHUNK - 7])
def test_queries_attend_to_positions_up_to_their_own(positions, written):
    rows, window = 2, 3
    cached = ChunkedCache(shape(rows, positions))
    keys, values = (normal(rows, positions, HEADS, HEAD_DIM, seed=seed) for seed in (1, 2))
    queries = normal(rows, window, HEADS, HEAD_DIM, seed=3)
    position = np.array([[0, 1, 2], [positions - 3, positions - 2, positions - 1]], np.int32)

    @tf.function
    def run(keys, values, queries, position):
        everywhere = tf.tile(tf.range(positions)[tf.newaxis], [rows, 1])
        filled = cached.filled(keys, values)
        if written:
            filled = cached.write(cached.empty(), keys, values, cached.addresses(everywhere))
        return cached.attend(filled, queries, position, cached.chunks)

    mixed = run(keys, values, queries, position).numpy()
    for row in range(rows):
        for place in range(window):
            expected = plain(queries[row, place], keys[row], values[row], position[row, place])
            np.testing.assert_allclose(mixed[row, place], expected, atol=1e-5)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("positions", [5, 9 * CHUNK - 7])
def test_the_cache_for_xla_attends_likewise_at_each_row_s_own_places(positions, window, written):
    rows = 3
    cached = FlatCache(shape(rows, positions), window)
    keys, values = (normal(rows, positions, HEADS, HEAD_DIM, seed=seed) for seed in (1, 2))
    queries = normal(rows, window, HEADS, HEAD_DIM, seed=3)
    # At the end of a row its last place fills the window.
    first = np.array([0, positions - 2, positions - 1], np.int32)
    position = np.minimum(first[:, np.newaxis] + np.arange(window, dtype=np.int32), positions - 1)

    @tf.function(jit_compile=True)
    def run(keys, values, queries, position):
        addresses = cached.addresses(position)
        filled = cached.grown(cached.filled(keys, values), cached.chunks)
        if written:
            new = [tf.gather(each, position, batch_dims=1) for each in (keys, values)]
            zeroed = cached.write(filled, *map(tf.zeros_like, new), addresses)
            filled = cached.write(zeroed, *new, addresses)
        return cached.attend(filled, queries, position, cached.chunks)

    mixed = run(keys, values, queries, position).numpy()
    for row in range(rows):
        for place in range(window):
            expected = plain(queries[row, place], keys[row], values[row], position[row, place])
            np.testing.assert_allclose(mixed[row, place], expected, atol=1e-5)


@pytest.mark.parametrize("layout", [ChunkedCache, FlatCache])
def test_a_write_replaces_what_is_there_and_calls_do_not_share_a_buffer(layout):
    cached = layout(shape(1, 2))

    @tf.function(jit_compile=layout is FlatCache)
    def run(value):
        cache = cached.empty()
        if layout is FlatCache:
            cache = cached.grown(cache, 1)
        before = tf.reduce_sum(cache.keys)
        with tf.control_dependencies([before]):
            for factor in (1.0, 5.0):
                new = tf.fill([1, 1, HEADS, HEAD_DIM], factor * value)
                cache = cached.write(cache, new, new, cached.addresses(tf.constant([[1]])))
        return before, tf.reduce_sum(cache.keys)

    for value in (1.0, 2.0):
        before, after = run(tf.constant(value))
        assert before == 0.0
        assert after == 5.0 * value * HEADS * HEAD_DIM


def test_an_output_has_the_same_bits_in_any_batch_window_and_number_of_chunks():
    generator = np.random.default_rng(0)

    @tf.function(reduce_retracing=True)
    def run(queries, keys, values, position):
        # The layout of the cache.
        chunks, rows = tf.shape(keys)[0], tf.shape(keys)[1]
        cached = ChunkedCache(shape(rows, 8 * CHUNK))
        flat = [tf.reshape(each, [-1, HEAD_DIM]) for each in (keys, values)]
        padded = [tf.pad(each, [[0, 8 * CHUNK * rows * HEADS - tf.shape(each)[0]], [0, 0]]) for each in flat]
        return cached.attend(KVCache(*padded), queries, position, chunks)

    def draw(*size):
        return generator.standard_normal(size).astype(np.float32)

    for _ in range(100):
        least = int(generator.integers(1, 8))
        query, place = draw(HEADS, HEAD_DIM), int(generator.integers((least - 1) * CHUNK, least * CHUNK))
        own_keys, own_values = draw(least, HEADS, CHUNK, HEAD_DIM), draw(least, HEADS, CHUNK, HEAD_DIM)
        seen = set()
        for _ in range(3):
            chunks = int(generator.integers(least, 9))
            rows, window = (int(generator.integers(1, most)) for most in (20, 6))
            keys, values = (draw(chunks, rows, HEADS, CHUNK, HEAD_DIM) for _ in range(2))
            queries = draw(rows, window, HEADS, HEAD_DIM)
            position = generator.integers(0, chunks * CHUNK, [rows, window]).astype(np.int32)
            row, column = int(generator.integers(rows)), int(generator.integers(window))
            keys[:least, row], values[:least, row] = own_keys, own_values
            queries[row, column], position[row, column] = query, place
            seen.add(run(queries, keys, values, position).numpy()[row, column].tobytes())
        assert len(seen) == 1
