"""What a compiled program computes, moves and holds, as XLA's compiler says.

FLOPs are those of matrix products. Bytes moved are the operands and results of what is left after fusion, as
if each were read from and written to memory. Bytes held are the buffers that XLA assigns beside the program's
inputs and constants; one whose content is not needed any more is used again. All are the CPU compiler's: an
accelerator's fuses more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    serialized = compiled.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo_proto_serialized")
    program = hlo_pb2.HloProto.FromString(serialized)
    module = program.hlo_module
    (entry,) = (each for each in module.computations if each.id == module.entry_computation_id)
    made = {each.id: each for each in entry.instructions}
    return Count(
        sum(_flops(each, made) for each in made.values()),
        sum(_moved(each, made) for each in made.values() if each.opcode not in UNMOVED),
        sum(
            buffer.size
            for buffer in program.buffer_assignment.buffer_allocations
            if not (buffer.is_entry_computation_parameter or buffer.is_constant or buffer.is_thread_local)
        ),
    )


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
