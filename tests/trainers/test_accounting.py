import pytest
import tensorflow as tf

from tests.trainers.products import flops
from trainers import accounting
from trainers.training.config import Transformer
from trainers.transformer import Block

# blocks, heads, width, hidden and the millions of parameters that Table 2 states.
TABLE_2 = [
    ((8, 8, 512, 2048), 32.03),
    ((12, 12, 768, 3072), 91.34),
    ((32, 16, 1280, 5120), 599.5),
    ((24, 16, 1536, 6144), 650.04),
    ((36, 32, 2048, 8192), 1697.5),
]


@pytest.mark.parametrize(("sizes", "millions"), TABLE_2)
def test_table_2_is_met_to_the_last_digit_stated(sizes, millions):
    size = Transformer(**dict(zip(("blocks", "heads", "width", "hidden"), sizes, strict=True)))
    digits = len(str(millions).partition(".")[2])
    assert round(accounting.table_2(size) / 1e6, digits) == millions


def test_a_block_has_the_parameters_and_products_of_the_one_that_is_built():
    size = Transformer(blocks=3, heads=2, width=6, hidden=10)
    block = Block(size)
    block.build((1, 5, 6))
    cost = accounting.block(size, tokens=5)
    assert cost.parameters == block.count_params()
    assert cost.flops == flops(block.call, tf.zeros([1, 5, 6]))
    assert accounting.blocks(size, tokens=5)[:2] == (3 * cost.parameters, 3 * cost.flops)


def test_activations_of_a_block_are_the_inputs_of_its_layers_and_the_attention_weights():
    size = Transformer(blocks=1, heads=2, width=4, hidden=8)
    # Norm, queries-keys-values, the three of them, out, norm, expand: 5 x 4 each; GELU and contract
    # 5 x 8 each; two heads of 5 x 5.
    assert accounting.block(size, tokens=5).activations == 8 * 20 + 2 * 40 + 2 * 25
    assert accounting.block(size, tokens=5, dropout=True).activations == 290 + 2 * 20 + 40 + 2 * 50


def test_under_bfloat16_the_residual_path_and_the_attention_weights_stay_as_large_as_they_are():
    size = Transformer(blocks=1, heads=2, width=4, hidden=8)
    cost = accounting.block(size, tokens=5)
    # The inputs of both norms, and the weights; of a recomputed stack, all inputs of blocks as well.
    assert cost.float32 == 2 * 20 + 2 * 25
    assert accounting.activation_bytes(cost, low_precision=False) == 4 * 290
    assert accounting.activation_bytes(cost, low_precision=True) == 4 * 90 + 2 * 200
    three = size.model_copy(update={"blocks": 3})
    assert accounting.blocks(three, tokens=5, gradient_checkpointing=True).float32 == 3 * 20 + 90


def test_recomputing_keeps_the_inputs_of_blocks_and_one_block():
    size = Transformer(blocks=3, heads=2, width=4, hidden=8)
    kept = accounting.blocks(size, tokens=5, gradient_checkpointing=True)
    assert kept.activations == 3 * 20 + 290
    assert kept[:2] == accounting.blocks(size, tokens=5)[:2]


def test_a_convolution_counts_as_the_one_that_is_built():
    import keras

    layer = keras.layers.Conv2D(7, 3, strides=2, padding="same")
    layer.build((1, 8, 8, 5))
    cost = accounting.convolution(5, 7, kernel=3, side=4)
    assert cost.parameters == layer.count_params()
    assert cost.flops == flops(layer.call, tf.zeros([1, 8, 8, 5]))


def test_nothing_at_all_costs_nothing():
    assert not any(accounting.total([]))
