import pytest
import tensorflow as tf

from tests.trainers.products import flops
from trainers import accounting
from trainers.training.config import Memory, Transformer
from trainers.transformer import Block

# Blocks, heads, width and hidden, and the parameters in millions that Table 2 states.
TABLE_2 = [
    ((8, 8, 512, 2048), 32.03),
    ((12, 12, 768, 3072), 91.34),
    ((32, 16, 1280, 5120), 599.5),
    ((24, 16, 1536, 6144), 650.04),
    ((36, 32, 2048, 8192), 1697.5),
]


@pytest.mark.parametrize(("sizes", "millions"), TABLE_2)
def test_parameters_match_table_2_to_its_last_digit(sizes, millions):
    size = Transformer(**dict(zip(("blocks", "heads", "width", "hidden"), sizes, strict=True)))
    digits = len(str(millions).partition(".")[2])
    assert round(accounting.table_2(size) / 1e6, digits) == millions


CHECKPOINTED = Memory(gradient_checkpointing=True)


def test_block_parameters_and_flops_match_the_built_block():
    size = Transformer(blocks=3, heads=2, width=6, hidden=10)
    block = Block(size)
    block.build((1, 5, 6))
    cost = accounting.block(size, tokens=5)
    assert cost.parameters == block.count_params()
    assert cost.flops == flops(block.call, tf.zeros([1, 5, 6]))
    assert accounting.blocks(size, tokens=5)[:2] == (3 * cost.parameters, 3 * cost.flops)


def test_block_activations_are_layer_inputs_and_attention_weights():
    size = Transformer(blocks=1, heads=2, width=4, hidden=8)
    # The inputs of norm, qkv, out, norm and expand, and queries, keys and values: 5 x 4 each. The inputs of
    # GELU and contract: 5 x 8 each. The attention weights: two heads of 5 x 5.
    assert accounting.block(size, tokens=5).activations == 8 * 20 + 2 * 40 + 2 * 25
    assert accounting.block(size, tokens=5, dropout=True).activations == 290 + 2 * 20 + 40 + 2 * 50


def test_residual_stream_and_attention_weights_count_as_float32():
    size = Transformer(blocks=1, heads=2, width=4, hidden=8)
    cost = accounting.block(size, tokens=5)
    # Inputs of both norms and attention weights; with gradient checkpointing also the inputs of all blocks.
    assert cost.float32 == 2 * 20 + 2 * 25
    assert accounting.activation_bytes(cost, low_precision=False) == 4 * 290
    assert accounting.activation_bytes(cost, low_precision=True) == 4 * 90 + 2 * 200
    three = size.model_copy(update={"blocks": 3})
    assert accounting.blocks(three, tokens=5, memory=CHECKPOINTED).float32 == 3 * 20 + 90


def test_blockwise_attention_keeps_its_output_and_a_number_a_query_in_place_of_the_weights():
    size = Transformer(blocks=3, heads=2, width=4, hidden=8)
    plain, blockwise = (accounting.block(size, tokens=5, blockwise=way) for way in (False, True))
    assert plain.activations - blockwise.activations == 2 * 25 - (20 + 10)
    assert plain[:2] == blockwise[:2]
    dropped = accounting.block(size, tokens=5, dropout=True, blockwise=True)
    assert dropped.activations - blockwise.activations == 2 * 20 + 40
    memory = Memory(blockwise_attention=True)
    assert accounting.blocks(size, tokens=5, memory=memory).activations == 3 * blockwise.activations
    # Scores once more: 2 N^2 d for each of three blocks.
    assert accounting.memory_flops(size, tokens=5, memory=memory) == {"blockwise attention": 3 * 2 * 25 * 4}


def test_gradient_checkpointing_keeps_block_inputs_and_one_block():
    size = Transformer(blocks=3, heads=2, width=4, hidden=8)
    kept = accounting.blocks(size, tokens=5, memory=CHECKPOINTED)
    assert kept.activations == 3 * 20 + 290
    assert kept[:2] == accounting.blocks(size, tokens=5)[:2]


def test_convolution_cost_matches_the_built_layer():
    import keras

    layer = keras.layers.Conv2D(7, 3, strides=2, padding="same")
    layer.build((1, 8, 8, 5))
    cost = accounting.convolution(5, 7, kernel=3, side=4)
    assert cost.parameters == layer.count_params()
    assert cost.flops == flops(layer.call, tf.zeros([1, 8, 8, 5]))


def test_total_of_no_parts_is_zero():
    assert not any(accounting.total([]))
