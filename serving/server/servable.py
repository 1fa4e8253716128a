"""One loaded version of a model: a SavedModel that checks its inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.export.signatures import read_signature_defs
from serving.export.warmup import read_warmup
from serving.wire.errors import RequestError, invalid, one_line

DEFAULT_SIGNATURE = "serving_default"
# A row is an image: more of them in one request would occupy the worker and memory for too long.
MAX_ROWS = 1024

# How many unknown names an error repeats, and how much of each.
NAMES, NAME = 10, 60


@dataclass(frozen=True)
class Signature:
    """Names, dtypes and shapes of inputs and outputs; a first size of None is any number of rows."""

    name: str
    inputs: Mapping[str, tf.TensorSpec]
    outputs: Mapping[str, tf.TensorSpec]

    @classmethod
    def from_proto(cls, name: str, proto: meta_graph_pb2.SignatureDef) -> Signature:
        """Create the signature from a SavedModel's SignatureDef."""
        return cls(name, _specs(proto.inputs), _specs(proto.outputs))

    @property
    def has_rows(self) -> bool:
        """Whether it answers row by row: the first size of all inputs and outputs is that of the batch."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return bool(self.inputs) and all(spec.shape.rank and spec.shape[0] is None for spec in specs)

    def check_inputs(self, inputs: Mapping[str, tf.TensorSpec]) -> None:
        """Raise a RequestError at the first name, dtype, shape or number of rows that does not fit.

        Args:
          inputs: what was sent, by name: dtypes and shapes alone, so that nothing is expanded before it fits.
        """
        self.check_names(inputs)
        rows = {}
        for name, spec in self.inputs.items():
            given = inputs[name]
            if given.dtype != spec.dtype or not spec.shape.is_compatible_with(given.shape):
                raise invalid(f"input {name} must be {_form(spec)}, got {_form(given)}")
            if spec.shape.rank and spec.shape[0] is None:
                rows[name] = given.shape[0]
        if len(set(rows.values())) > 1:
            raise invalid(f"inputs must have the same number of rows, got {rows}")
        if max(rows.values(), default=0) > MAX_ROWS:
            raise invalid(f"inputs must have at most {MAX_ROWS} rows, got {max(rows.values())}")

    def check_names(self, names: Collection[str]) -> None:
        """Raise a RequestError unless these are the names of the inputs."""
        if missing := set(self.inputs) - set(names):
            raise invalid(f"inputs of signature {self.name} must be complete, missing: {_names(missing)}")
        if unknown := set(names) - set(self.inputs):
            allowed = _names(self.inputs)
            raise invalid(f"inputs of signature {self.name} must be {allowed}, got also {_names(unknown)}")


class Servable:
    """A SavedModel in memory, ready to answer.

    Attributes:
      model: the model's name.
      version: its version.
      signature_defs: the signatures as stored in the SavedModel, by name.
    """

    def __init__(self, model: str, version: int, path: str, *, warm_up: bool = True):
        """Load, and warm up; raises whatever TensorFlow raises if `path` is not a SavedModel."""
        self.model = model
        self.version = version
        self.signature_defs = read_signature_defs(path)
        self._signatures = {
            name: Signature.from_proto(name, proto) for name, proto in self.signature_defs.items()
        }
        self._functions = tf.saved_model.load(path)
        for signature, inputs in read_warmup(path) if warm_up else ():
            self.predict(signature, inputs)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """All signatures by name."""
        return self._signatures

    def signature(self, name: str) -> Signature:
        """Return the signature of that name, or `serving_default` for an empty name."""
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            allowed = ", ".join(sorted(self._signatures))
            raise invalid(f"signature of {self.model} must be one of {allowed}, got {name!r}")
        return self._signatures[name]

    def wanted(self, signature: Signature, output_filter: Collection[str]) -> tuple[str, ...]:
        """The outputs that a filter asks for, all if it is empty.

        Raises:
          RequestError: INVALID_ARGUMENT if the signature has no such output.
        """
        if unknown := set(output_filter) - set(signature.outputs):
            allowed = _names(signature.outputs)
            raise invalid(f"output_filter of {signature.name} must be among {allowed}, got {_names(unknown)}")
        # An output once, however often it is named: each would be written again.
        return tuple(dict.fromkeys(output_filter)) or tuple(signature.outputs)

    def predict(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], output_filter: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """Check and run one signature.

        Args:
          signature_name: empty for `serving_default`.
          inputs: arrays by name, exactly the signature's dtypes; object arrays of bytes for strings.
          output_filter: the outputs wanted; empty for all.

        Returns:
          Arrays by name, strings as object arrays of bytes.

        Raises:
          RequestError: INVALID_ARGUMENT for a faulty request, another status if TensorFlow fails.
        """
        signature = self.signature(signature_name)
        wanted = self.wanted(signature, output_filter)
        signature.check_inputs(specs_of(inputs))
        return self.run(signature, inputs, wanted)

    def run(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], wanted: Collection[str]
    ) -> dict[str, np.ndarray]:
        """Run a signature on inputs that fit it; returns and raises as `predict`."""
        tensors = {name: tf.constant(inputs[name], spec.dtype) for name, spec in signature.inputs.items()}
        try:
            outputs = self._functions.signatures[signature.name](**tensors)
            return {name: _array(outputs[name]) for name in wanted}
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
            raise invalid(one_line(error)) from error
        except tf.errors.ResourceExhaustedError as error:
            raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, one_line(error)) from error
        except tf.errors.OpError as error:
            raise RequestError(grpc.StatusCode.INTERNAL, one_line(error)) from error


def specs_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tf.TensorSpec]:
    """Dtypes and shapes of arrays by name, strings being object arrays."""
    return {name: tf.TensorSpec(array.shape, tf.as_dtype(array.dtype)) for name, array in arrays.items()}


def _array(tensor: tf.Tensor) -> np.ndarray:
    # dtype object keeps a scalar string whole; numpy's own string type drops trailing zero bytes.
    return np.asarray(tensor.numpy(), dtype=tensor.dtype.as_numpy_dtype)


def _specs(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.as_dtype(info.dtype), name)
        for name, info in infos.items()
    }


def _names(names: Collection[str]) -> str:
    # A message may hold thousands of them, and each megabytes.
    shown = [name if len(name) <= NAME else f"{name[:NAME]}..." for name in sorted(names)[:NAMES]]
    return ", ".join([*shown, *(["..."] if len(names) > NAMES else [])]) or "no input"


def _form(spec: tf.TensorSpec) -> str:
    sizes = ", ".join("?" if size is None else str(size) for size in spec.shape)
    return f"{spec.dtype.name} [{sizes}]"
