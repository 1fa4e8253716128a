import tensorflow as tf

from benchmarks import hlo


def test_product_is_counted_by_its_sizes():
    a, b = tf.ones([5, 8, 16]), tf.ones([5, 16, 32])
    found = hlo.count(lambda x, y: tf.matmul(x, y), a, b)
    assert found.flops == 2 * 5 * 8 * 16 * 32
    assert found.moved == 4 * 5 * (8 * 16 + 16 * 32 + 8 * 32)
    turned = hlo.count(lambda x, y: tf.matmul(x, y, transpose_b=True), a, tf.ones([5, 32, 16]))
    assert turned.flops == 2 * 5 * 8 * 16 * 32
    assert hlo.count(lambda x: tf.matmul(x, x, transpose_a=True), tf.ones([64, 4])).flops == 2 * 4 * 64 * 4


def test_what_is_fused_is_neither_moved_nor_held():
    x = tf.ones([1000])
    chain = hlo.count(lambda x: tf.exp(tf.sin(x) + 1.0) * 2.0, x)
    assert (chain.moved, chain.held) == (8000, 4000)


def test_what_a_backward_pass_needs_is_held():
    weights = [tf.random.stateless_normal([64, 64], seed=[0, index]) for index in range(8)]

    def gradient(x, *weights):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for weight in weights:
                y = tf.tanh(y @ weight)
        return tape.gradient(y, x)

    x = tf.ones([512, 64])
    of_4, of_8 = (hlo.count(gradient, x, *weights[:layers]).held for layers in (4, 8))
    # Four results of tanh more, 128 KiB each.
    assert of_8 - of_4 == 4 * 512 * 64 * 4


def test_loop_counts_as_often_as_it_runs():
    a = tf.ones([64, 64])

    def repeated(x):
        return tf.while_loop(
            lambda index, x: index < 7,
            lambda index, x: (index + 1, x @ a),
            (tf.constant(0), x),
            maximum_iterations=7,
        )[1]

    assert hlo.count(repeated, a).flops == 7 * 2 * 64**3
