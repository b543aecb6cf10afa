"""The messages of KEDA's external scaler protocol, declared from its field names and numbers.

They are built here and not generated, so that neither a compiler nor generated files are needed; the pool is our own, so that
a program that also loads generated ones meets no conflict. Message and service names are those of KEDA's
``externalscaler.proto`` (kedacore/keda, pkg/scalers/externalscaler).
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "externalscaler"
SERVICE = f"{PACKAGE}.ExternalScaler"

_TEXT, _INTEGER, _FLOAT, _FLAG = "string", "int64", "double", "bool"
_MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "ScaledObjectRef": (("name", _TEXT), ("namespace", _TEXT), ("scalerMetadata", "map")),
    "IsActiveResponse": (("result", _FLAG),),
    "MetricSpec": (("metricName", _TEXT), ("targetSize", _INTEGER), ("targetSizeFloat", _FLOAT)),
    "GetMetricSpecResponse": (("metricSpecs", "[MetricSpec]"),),
    "GetMetricsRequest": (("scaledObjectRef", "ScaledObjectRef"), ("metricName", _TEXT)),
    "MetricValue": (("metricName", _TEXT), ("metricValue", _INTEGER), ("metricValueFloat", _FLOAT)),
    "GetMetricsResponse": (("metricValues", "[MetricValue]"),),
}
"""Message -> its fields (name, kind); the n-th field has number n. ``[X]`` repeats, ``map`` is from text to text."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="externalscaler.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            _add(message, field, kind.replace("ScaledObjectRef", "ScaledObjectRef"), number)
    return file


def _add(message: Any, name: str, kind: str, number: int) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    scalars = {_TEXT: types.TYPE_STRING, _INTEGER: types.TYPE_INT64, _FLOAT: types.TYPE_DOUBLE, _FLAG: types.TYPE_BOOL}
    repeated = kind == "map" or kind.startswith("[")
    label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if kind in scalars:
        field.type = scalars[kind]
        return
    field.type = types.TYPE_MESSAGE
    field.type_name = f".{PACKAGE}.{kind.strip('[]')}"
    if kind == "map":
        entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        _add(entry, "key", _TEXT, 1)
        _add(entry, "value", _TEXT, 2)
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES}


_KNOWN = _classes()
ScaledObjectRef = _KNOWN["ScaledObjectRef"]
IsActiveResponse = _KNOWN["IsActiveResponse"]
MetricSpec = _KNOWN["MetricSpec"]
GetMetricSpecResponse = _KNOWN["GetMetricSpecResponse"]
GetMetricsRequest = _KNOWN["GetMetricsRequest"]
MetricValue = _KNOWN["MetricValue"]
GetMetricsResponse = _KNOWN["GetMetricsResponse"]
