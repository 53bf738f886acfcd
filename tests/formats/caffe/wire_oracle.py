"""The protobuf library as oracle: NetParameter with the fields that matter, built without caffe.proto."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_F = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, list[tuple[str, int, Any, str]]] = {
    "BlobShape": [("dim", 1, _F.TYPE_INT64, "packed")],
    "BlobProto": [
        ("num", 1, _F.TYPE_INT32, ""),
        ("channels", 2, _F.TYPE_INT32, ""),
        ("height", 3, _F.TYPE_INT32, ""),
        ("width", 4, _F.TYPE_INT32, ""),
        ("data", 5, _F.TYPE_FLOAT, "packed"),
        ("diff", 6, _F.TYPE_FLOAT, "packed"),
        ("shape", 7, "BlobShape", ""),
        ("double_data", 8, _F.TYPE_DOUBLE, "packed"),
        ("double_diff", 9, _F.TYPE_DOUBLE, "packed"),
    ],
    "ConvolutionParameter": [
        ("num_output", 1, _F.TYPE_UINT32, ""),
        ("bias_term", 2, _F.TYPE_BOOL, ""),
        ("pad", 3, _F.TYPE_UINT32, "repeated"),
        ("kernel_size", 4, _F.TYPE_UINT32, "repeated"),
        ("group", 5, _F.TYPE_UINT32, ""),
        ("stride", 6, _F.TYPE_UINT32, "repeated"),
        ("pad_h", 9, _F.TYPE_UINT32, ""),
        ("pad_w", 10, _F.TYPE_UINT32, ""),
        ("kernel_h", 11, _F.TYPE_UINT32, ""),
        ("kernel_w", 12, _F.TYPE_UINT32, ""),
        ("stride_h", 13, _F.TYPE_UINT32, ""),
        ("stride_w", 14, _F.TYPE_UINT32, ""),
        ("engine", 15, _F.TYPE_INT32, ""),
        ("dilation", 18, _F.TYPE_UINT32, "repeated"),
    ],
    "LayerParameter": [
        ("name", 1, _F.TYPE_STRING, ""),
        ("type", 2, _F.TYPE_STRING, ""),
        ("bottom", 3, _F.TYPE_STRING, "repeated"),
        ("top", 4, _F.TYPE_STRING, "repeated"),
        ("loss_weight", 5, _F.TYPE_FLOAT, "repeated"),
        ("blobs", 7, "BlobProto", "repeated"),
        ("phase", 10, _F.TYPE_INT32, ""),
        ("convolution_param", 106, "ConvolutionParameter", ""),
    ],
    "V0LayerParameter": [
        ("name", 1, _F.TYPE_STRING, ""),
        ("type", 2, _F.TYPE_STRING, ""),
        ("num_output", 3, _F.TYPE_UINT32, ""),
        ("blobs", 50, "BlobProto", "repeated"),
    ],
    "V1LayerParameter": [
        ("layer", 1, "V0LayerParameter", ""),
        ("bottom", 2, _F.TYPE_STRING, "repeated"),
        ("top", 3, _F.TYPE_STRING, "repeated"),
        ("name", 4, _F.TYPE_STRING, ""),
        ("type", 5, _F.TYPE_INT32, ""),
        ("blobs", 6, "BlobProto", "repeated"),
        ("blobs_lr", 7, _F.TYPE_FLOAT, "repeated"),
        ("convolution_param", 10, "ConvolutionParameter", ""),
    ],
    "NetParameter": [
        ("name", 1, _F.TYPE_STRING, ""),
        ("layers", 2, "V1LayerParameter", "repeated"),
        ("layer", 100, "LayerParameter", "repeated"),
    ],
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="tiny_caffe.proto", package="tiny", syntax="proto2")
    for name, rows in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, how in rows:
            field = message.field.add(name=field_name, number=number)
            field.label = _F.LABEL_REPEATED if how else _F.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = _F.TYPE_MESSAGE, f".tiny.{kind}"
            else:
                field.type = kind
            if how == "packed":
                field.options.packed = True
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())
NetParameter: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("tiny.NetParameter"))


def parse(data: bytes) -> Any:
    """Parse a net with protobuf's own parser; raises google.protobuf.message.DecodeError."""
    return NetParameter.FromString(data)
