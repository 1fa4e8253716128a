"""Costs of layers, from their sizes alone: nothing is built, and TensorFlow is not imported.

FLOPs are those of matrix products and convolutions, two for a multiply-add, attention's two products
included. Left out are biases, norms, softmax, activation functions, table look-ups, resampling and losses: a
few percent at the paper's sizes. Causal attention counts in full, because it is computed in full and then
masked.

Activations are an estimate of what is kept for the backward pass: the inputs of products, norms and
activation functions and the outputs of softmaxes, each layer taken as one fused operation. Unfused, a block
at the paper's sizes keeps about 1.5 times as much in TensorFlow's graph (counted there), where GELU and norms
are many small operations; a fused attention keeps less. Under bfloat16 the residual stream (the inputs of
norms), attention weights and losses stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from trainers.training.config import Memory, Transformer

FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2

# Table 2 counts with these for every row, tokenizers included.
TABLE_2_CODES = 8192
TABLE_2_TOKENS = 1024


class Cost(NamedTuple):
    """The cost of a part of a model.

    Attributes:
      parameters: trainable numbers.
      flops: floating-point operations of the forward pass of one image.
      activations: numbers that the forward pass of one image keeps for the backward pass.
      adafactor: bytes of Adafactor's slots for its parameters, which depend on the shapes of the tensors
        (`trainers.training.adafactor`).
      float32: the activations among them that are float32 under any policy.
    """

    parameters: int
    flops: int
    activations: int
    adafactor: int
    float32: int = 0


def total(costs: Iterable[Cost]) -> Cost:
    """The sum over parts."""
    rows = list(costs)
    return Cost(*(sum(column) for column in zip(*rows, strict=True))) if rows else Cost(0, 0, 0, 0)


def activation_bytes(cost: Cost, *, low_precision: bool) -> int:
    """Bytes of the activations in float32, or under bfloat16."""
    shrunk = cost.activations - cost.float32 if low_precision else 0
    return FLOAT32_BYTES * (cost.activations - shrunk) + BFLOAT16_BYTES * shrunk


def tensor(*shape: int) -> Cost:
    """A trainable tensor: a table, a bias."""
    numbers = math.prod(shape)
    if len(shape) < 2:
        return Cost(numbers, 0, 0, adafactor=2 * FLOAT32_BYTES * numbers)
    vectors = numbers // shape[-1] + 2 * shape[-1]
    return Cost(numbers, 0, 0, adafactor=numbers + FLOAT32_BYTES * vectors)


def work(*, flops: int = 0, activations: int = 0, float32: int = 0) -> Cost:
    """Operations without parameters; `float32` of the `activations` are float32 under any policy."""
    return Cost(0, flops, activations, 0, float32)


def dense(inputs: int, units: int, *, rows: int, float32: bool = False) -> Cost:
    """A dense layer on `rows` vectors an image; it keeps its input, in float32 if it is `float32` itself."""
    kept_numbers = rows * inputs
    return total(
        [
            tensor(inputs, units),
            tensor(units),
            work(
                flops=2 * rows * inputs * units,
                activations=kept_numbers,
                float32=kept_numbers * float32,
            ),
        ]
    )


def convolution(
    inputs: int, filters: int, *, kernel: int, side: int, stride: int = 1, bias: bool = True
) -> Cost:
    """A square convolution whose output is `side` x `side`; it keeps its input, `stride` times as wide."""
    weights = tensor(kernel, kernel, inputs, filters)
    flops = 2 * weights.parameters * side**2
    kept_numbers = inputs * (stride * side) ** 2
    return total([weights, tensor(bias * filters), work(flops=flops, activations=kept_numbers)])


def kept(numbers: int) -> Cost:
    """An operation without weights and products that keeps its input: an activation function, a mask."""
    return work(activations=numbers)


def loss(numbers: int) -> Cost:
    """A softmax or a loss, which keeps this many numbers in float32."""
    return work(activations=numbers, float32=numbers)


def norm(width: int, *, rows: int, float32: bool = True) -> Cost:
    """A normalization with scale and offset; it keeps its input, in float32 on the residual stream."""
    numbers = rows * width
    return total([tensor(width), tensor(width), work(activations=numbers, float32=numbers * float32)])


def attention(width: int, *, heads: int, tokens: int, blockwise: bool = False) -> Cost:
    """Self-attention with its projections; it keeps queries, keys, values and the attention weights.

    `blockwise` it keeps its output and a number a query in place of the weights.
    """
    return total(
        [
            dense(width, 3 * width, rows=tokens),
            work(flops=4 * tokens**2 * width, activations=3 * tokens * width),
            loss(tokens * (width + heads) if blockwise else heads * tokens**2),
            dense(width, width, rows=tokens),
        ]
    )


def block(
    size: Transformer,
    *,
    tokens: int,
    dropout: bool = False,
    qk_norm: bool = False,
    blockwise: bool = False,
) -> Cost:
    """One Transformer block (`trainers.transformer.Block`) on a sequence of N tokens.

    With d the width, h the hidden width and H heads: 4 d^2 + 2 d h weights with 9 d + h biases and norm
    parameters; 2 N (4 d^2 + 2 d h) + 4 N^2 d FLOPs; 8 N d + 2 N h + H N^2 activations, which are the
    inputs of both norms, of attention's projections and products, of the feed-forward layers and of
    GELU, and the attention weights. Dropout adds its masks, and a copy of the attention weights:
    2 N d + N h + 2 H N^2. Norms of queries and keys have 4 d / H parameters and keep 2 N d inputs. With
    blockwise attention N d + H N takes the place of H N^2, and dropout adds no 2 H N^2.
    """
    d, h, heads = size.width, size.hidden, size.heads
    query_key_norms = [norm(d // heads, rows=heads * tokens)] * (2 if qk_norm else 0)
    masks = 2 * tokens * d + tokens * h + (0 if blockwise else 2 * heads * tokens**2)
    return total(
        [
            norm(d, rows=tokens),
            attention(d, heads=heads, tokens=tokens, blockwise=blockwise),
            *query_key_norms,
            norm(d, rows=tokens),
            dense(d, h, rows=tokens),
            kept(tokens * h),
            dense(h, d, rows=tokens),
            kept(masks if dropout else 0),
        ]
    )


def blocks(
    size: Transformer,
    *,
    tokens: int,
    dropout: bool = False,
    qk_norm: bool = False,
    memory: Memory = Memory(),
) -> Cost:
    """A stack of Transformer blocks.

    With `memory.gradient_checkpointing` it keeps every block's input, N d numbers, and the activations of the
    one block that is being recomputed. The FLOPs are the forward pass's.
    """
    one = block(size, tokens=tokens, dropout=dropout, qk_norm=qk_norm, blockwise=memory.blockwise_attention)
    every = total([one] * size.blocks)
    if memory.gradient_checkpointing:
        inputs = size.blocks * tokens * size.width
        return every._replace(activations=inputs + one.activations, float32=inputs + one.float32)
    return every


def memory_flops(size: Transformer, *, tokens: int, memory: Memory) -> dict[str, int]:
    """What saving memory adds to a stack's training step: its forward pass again, or all scores, 2 N^2 d."""
    added = {}
    if memory.gradient_checkpointing:
        added["gradient checkpointing"] = blocks(size, tokens=tokens).flops
    if memory.blockwise_attention:
        added["blockwise attention"] = 2 * size.blocks * tokens**2 * size.width
    return added


def table_2(size: Transformer) -> int:
    """The parameters that Table 2 states for a Transformer of this size.

    The table counts three d x d attention matrices a block, where the model has four, and for every row,
    tower of the tokenizer or VIM, a table of 8192 codes, a softmax of 8192 codes without a bias, and 1024
    positions. 32.03, 91.34, 599.5, 650.04 and 1697.5 million for its five rows.
    """
    d, h = size.width, size.hidden
    weights = 3 * d**2 + 2 * d * h
    biases_and_norms = 3 * d + h + d + 4 * d
    last_norm = 2 * d
    tables = (2 * TABLE_2_CODES + TABLE_2_TOKENS) * d
    return size.blocks * (weights + biases_and_norms) + last_norm + tables
