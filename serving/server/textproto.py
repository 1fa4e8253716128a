"""Files of TF Serving in the text format of protobuf, whose messages its Python package lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from serving.wire.errors import ServingError, one_line

_KINDS = descriptor_pb2.FieldDescriptorProto
_TYPES = {int: _KINDS.TYPE_INT64, str: _KINDS.TYPE_STRING, bool: _KINDS.TYPE_BOOL}

# By name `int`, `str` or `bool`, a list of one of them for a repeated field, or the fields of a message.
Fields = Mapping[str, Any]


def read(path: str, message: str, fields: Fields) -> dict[str, Any]:
    """Read a file that holds one message.

    Args:
      path: of the file.
      message: its name, for errors.
      fields: of the message.

    Returns:
      The values of the fields that are there, by name.

    Raises:
      ServingError: the file cannot be read, or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            parsed = text_format.Parse(file.read(), _message_class(message, fields)())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServingError(f"{path} must hold a {message}, got {one_line(error)}") from error
    return _values(parsed, fields)


def _values(parsed: Any, fields: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in fields.items():
        value = getattr(parsed, name)
        if isinstance(kind, list):
            found |= {name: tuple(value)} if value else {}
        elif parsed.HasField(name):
            found[name] = _values(value, kind) if isinstance(kind, Mapping) else value
    return found


def _message_class(message: str, fields: Fields) -> Any:
    # proto2, so that every field knows whether it was given.
    package = f"tfx_vim_{message}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    _add_message(file, message, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f"{package}.{message}")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)  # protobuf 3, of lane A


def _add_message(file: descriptor_pb2.FileDescriptorProto, name: str, fields: Fields) -> None:
    message = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        label = _KINDS.LABEL_REPEATED if isinstance(kind, list) else _KINDS.LABEL_OPTIONAL
        added = message.field.add(name=field, number=number, label=label)
        if isinstance(kind, Mapping):
            inner = f"{name}_{field}"
            _add_message(file, inner, kind)
            added.type, added.type_name = _KINDS.TYPE_MESSAGE, f".{file.package}.{inner}"
        else:
            added.type = _TYPES[kind[0] if isinstance(kind, list) else kind]
