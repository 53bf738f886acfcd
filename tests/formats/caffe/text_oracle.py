"""The protobuf library as oracle for text: every message of our schema, as descriptors built from it.

Python's text parser is another program than the C++ parser in Caffe, and differs in corners; on the common
forms they agree.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from twofold.formats.caffe.fields import Fields, Value
from twofold.formats.caffe.schema import ENUMS, MESSAGES, FieldDef

_F = descriptor_pb2.FieldDescriptorProto
_NO_NUMBER = 10_000  # where fields begin whose number is not agreed on


def _add_field(message: descriptor_pb2.DescriptorProto, definition: FieldDef, spare: int) -> None:
    field = message.field.add(name=definition.name, number=definition.number or spare)
    field.label = (
        _F.LABEL_REPEATED if definition.repeated
        else _F.LABEL_REQUIRED if definition.required
        else _F.LABEL_OPTIONAL
    )  # fmt: skip
    field.type = getattr(_F, f"TYPE_{definition.type.upper()}")
    if definition.type == "message":
        field.type_name = f".caffe.{definition.type_name}"
    elif definition.type == "enum":
        # Values of an enum live beside it, so enums that share a value's name need rooms of their own.
        field.type_name = f".caffe.In{definition.type_name}.{definition.type_name}"
    if definition.packed:
        field.options.packed = True
    if not definition.repeated and not definition.required and definition.type not in ("message", "bytes"):
        default = definition.default
        field.default_value = str(default).lower() if isinstance(default, bool) else str(default)


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="caffe_text.proto", package="caffe", syntax="proto2")
    for name, values in ENUMS.items():
        enum = file.message_type.add(name=f"In{name}").enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for i, definition in enumerate(fields.values()):
            _add_field(message, definition, _NO_NUMBER + i)
    return file


pool = descriptor_pool.DescriptorPool()
pool.Add(_file())


def message_class(name: str) -> Any:
    """Protobuf's class for one of our messages."""
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def parse_text(source: bytes, name: str = "NetParameter") -> Any:
    """Parse text with protobuf's own parser; raises text_format.ParseError."""
    return text_format.Parse(source.decode("utf-8"), message_class(name)())


def as_fields(message: Any) -> Fields:
    """What a protobuf message holds, in the terms of our reader."""
    values: dict[str, list[Value]] = {}
    for field, given in message.ListFields():
        definition = MESSAGES[message.DESCRIPTOR.name][field.name]
        many = list(given) if definition.repeated else [given]
        values[field.name] = [_value(definition, one) for one in many]
    return Fields(message.DESCRIPTOR.name, values)


def _value(definition: FieldDef, value: Any) -> Value:
    if definition.type == "message":
        return as_fields(value)
    if definition.type == "enum":
        return next(name for name, number in ENUMS[definition.type_name].items() if number == value)
    if definition.type == "bytes":
        return value.decode("utf-8", "surrogateescape")
    return value
