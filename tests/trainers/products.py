"""Counts the matrix products and convolutions of a traced function."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# A graph that calls others would hide their products.
CALLS = {"PartitionedCall", "StatefulPartitionedCall", "While", "If", "StatelessIf", "Einsum"}


def flops(function: Callable, *inputs: tf.Tensor) -> int:
    """FLOPs of every product in the graph of `function` that its results depend on, from its shapes."""
    graph = tf.function(function).get_concrete_function(*inputs).graph
    needed: set[tf.Operation] = set()
    found = [tensor.op for tensor in graph.outputs]
    while found:
        operation = found.pop()
        if operation not in needed:
            needed.add(operation)
            found += [tensor.op for tensor in operation.inputs]
    assert not {operation.type for operation in needed} & CALLS
    return sum(2 * _multiplications(operation) for operation in needed)


def _multiplications(operation: tf.Operation) -> int:
    shapes = [tensor.shape for tensor in operation.inputs]
    (result, *_) = [tensor.shape for tensor in operation.outputs] or [None]
    match operation.type:
        case "MatMul":
            shared = shapes[0][0 if operation.get_attr("transpose_a") else 1]
            return result.num_elements() * shared
        case "BatchMatMulV2":
            shared = shapes[0][-2 if operation.get_attr("adj_x") else -1]
            return result.num_elements() * shared
        case "Conv2D":
            kernel, positions = shapes[1], result
        case "Conv2DBackpropInput":
            kernel, positions = shapes[1], shapes[2]
        case "Conv2DBackpropFilter":
            kernel, positions = result, shapes[2]
        case _:
            return 0
    # Every weight meets every place of the convolution's own output, whichever of the three it is.
    return kernel.num_elements() * positions[:3].num_elements()
