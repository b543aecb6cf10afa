"""Message classes for the few fields that we read: leaner, and so faster, than the classes of a whole specification."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from forecastle.errors import ConfigError

Fields: TypeAlias = Mapping[str, tuple[int, str, bool]]
"""Field -> (number, type, repeated); a type is one of protobuf's or another message of the schema."""


@cache
def pool() -> Any:
    """A pool of our own, so that names cannot meet those of other packages. Raises ConfigError without protobuf."""
    try:
        from google.protobuf import descriptor_pool
    except ImportError as error:
        raise ConfigError("this codec needs protobuf; run: pip install 'forecastle[stream]'") from error
    return descriptor_pool.DescriptorPool()


def message_classes(package: str, schema: Mapping[str, Fields], *roots: str) -> tuple[Any, ...]:
    """The classes of the messages ``roots`` of ``schema``. A package may be given once."""
    shared = pool()
    from google.protobuf import descriptor_pb2, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for name, fields in schema.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            if kind in schema:
                made.type, made.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                made.type = getattr(kinds, f"TYPE_{kind.upper()}")
    shared.Add(file)
    return tuple(message_factory.GetMessageClass(shared.FindMessageTypeByName(f"{package}.{root}")) for root in roots)
