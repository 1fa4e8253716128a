"""Count the FLOPs of matrix products and convolutions in a traced function."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Operations that call other graphs, whose products would not be counted.
CALLS = {"PartitionedCall", "StatefulPartitionedCall", "While", "If", "StatelessIf", "Einsum"}


def flops(function: Callable, *inputs: tf.Tensor) -> int:
    """FLOPs of all products that the results of `function` depend on, from the static shapes of its graph."""
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
    # Forward pass and both gradients: each weight is used once at each position of the forward output.
    return kernel.num_elements() * positions[:3].num_elements()
