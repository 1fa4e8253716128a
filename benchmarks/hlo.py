"""What a compiled program computes, moves and holds, as XLA's compiler says.

FLOPs are those of matrix products. Bytes moved are the operands and results of what is left after fusion, as
if each were read from and written to memory. Bytes held are the buffers that XLA assigns beside the program's
inputs and constants; one whose content is not needed any more is used again. All are the CPU compiler's: an
accelerator's fuses more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

# The only way to XLA's buffer assignment from TensorFlow's wheel.
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

# Results that lie where an operand does, and what the program is given.
UNMOVED = frozenset(("get-tuple-element", "tuple", "bitcast", "parameter", "constant"))


class Count(NamedTuple):
    """Floating-point operations of products, bytes read and written, and bytes held at once."""

    flops: int
    moved: int
    held: int


def count(step: Callable[..., Any], *arguments: Any) -> Count:
    """Compile a function of tensors by XLA and count its program."""
    compiled = tf.function(step, jit_compile=True, autograph=False)
    program = compiled.experimental_get_compiler_ir(*arguments)
    # From TensorFlow 2.21 on, what has the buffers has no values of constants, which loops end at.
    module = hlo_pb2.HloModuleProto.FromString(program(stage="optimized_hlo_serialized"))
    buffers = hlo_pb2.HloProto.FromString(program(stage="optimized_hlo_proto_serialized")).buffer_assignment
    computations = {each.id: each for each in module.computations}
    flops, moved = _work(module.entry_computation_id, computations)
    held = sum(
        buffer.size
        for buffer in buffers.buffer_allocations
        if not (buffer.is_entry_computation_parameter or buffer.is_constant or buffer.is_thread_local)
    )
    return Count(flops, moved, held)


def _work(computation: int, computations: Mapping[int, Any]) -> tuple[int, int]:
    """FLOPs of a computation, and the bytes that it moves; loops as often as they run."""
    made = {each.id: each for each in computations[computation].instructions}
    flops = moved = 0
    for instruction in made.values():
        if instruction.opcode == "while":
            body, condition = instruction.called_computation_ids
            inner = _work(body, computations)
            times = _trips(condition, computations)
            flops, moved = flops + times * inner[0], moved + times * inner[1]
        elif instruction.opcode not in UNMOVED:
            # What is called was fused: it reads its operands and writes its result.
            called = instruction.called_computation_ids if instruction.opcode == "call" else ()
            flops += _flops(instruction, made) + sum(_work(each, computations)[0] for each in called)
            moved += _moved(instruction, made)
    return flops, moved


def _trips(condition: int, computations: Mapping[int, Any]) -> int:
    """How often a loop runs that counts from 0: up to the constant that its condition compares with."""
    bounds = set(_integers(condition, computations))
    if len(bounds) != 1:
        raise ValueError(f"a loop's condition must compare with one constant, got {sorted(bounds)}")
    return bounds.pop()


def _integers(computation: int, computations: Mapping[int, Any]) -> Iterator[int]:
    for instruction in computations[computation].instructions:
        yield from (*instruction.literal.s32s, *instruction.literal.s64s)
        for called in instruction.called_computation_ids:
            yield from _integers(called, computations)


def _flops(instruction: hlo_pb2.HloInstructionProto, made: Mapping[int, Any]) -> int:
    """FLOPs of a product, 2 b M K N, by the sizes alone; 0 of anything else.

    With b matrices [M, K] and [K, N] multiplied to [M, N], the three have b^3 (M K N)^2 numbers, however they
    lie.
    """
    if instruction.opcode != "dot" and "matmul" not in instruction.custom_call_target:
        return 0
    factors = [made[operand].shape for operand in instruction.operand_ids[:2]]
    numbers = math.prod(map(_numbers, (*factors, instruction.shape)))
    batch = math.prod(instruction.shape.dimensions[:-2])
    return 2 * batch * round(math.sqrt(numbers / batch**3))


def _moved(instruction: hlo_pb2.HloInstructionProto, made: Mapping[int, Any]) -> int:
    return sum(map(_bytes, (instruction.shape, *(made[each].shape for each in instruction.operand_ids))))


def _numbers(shape: xla_data_pb2.ShapeProto) -> int:
    return math.prod(shape.dimensions)


def _bytes(shape: xla_data_pb2.ShapeProto) -> int:
    if shape.element_type == xla_data_pb2.TUPLE:
        return sum(map(_bytes, shape.tuple_shapes))
    # Named after their bits: F32, S64, BF16; but a PRED is a byte.
    digits = xla_data_pb2.PrimitiveType.Name(shape.element_type).lstrip("BCFSU")
    return _numbers(shape) * (int(digits) // 8 if digits.isdecimal() else 1)
