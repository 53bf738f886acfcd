"""Conv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import NodeProto, ValueInfoProto, helper

from ....conv import ConvGeometry, Size
from ..attributes import auto_pad, integer, integers
from ..graphs import DOMAIN
from .base import LayerAdapter, Operator, Shape, plain

Pads = tuple[tuple[int, int], ...]


class Convolution(LayerAdapter):
    """Convolutions over any number of axes."""

    layer_type = "convolution"
    operators: tuple[Operator, ...] = (("", "Conv"),)

    def size(self, shape: Shape) -> Size | None:
        if shape is None or None in shape[2:]:
            return None
        return tuple(d for d in shape[2:] if d is not None)

    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        if len(dims) < 3:
            return None, f"its weight has the shape {list(dims)}; one of at least 3 axes is needed"
        kernel = dims[2:]
        ones = (1,) * len(kernel)
        groups = integer(node, "group", 1)
        stride, dilation = integers(node, "strides", ones), integers(node, "dilations", ones)
        if not len(stride) == len(dilation) == len(kernel):
            return None, f"its strides or dilations do not fit a kernel of {len(kernel)} axes"
        pads, problem = _pads(node, kernel, stride, dilation, size)
        c_out, c_in = self.channels(dims, groups)
        more = self.output_padding(node)
        try:
            shaped = ConvGeometry(c_out, c_in, kernel, stride, pads, dilation, groups, self.layer_type, more)
        except ValueError as error:
            return None, f"its shape is not supported: {error}"
        return shaped, self.problem(node) or problem

    def channels(self, dims: Size, groups: int) -> tuple[int, int]:
        """Output and input channels, from the shape of the weight."""
        return dims[0], dims[1] * groups

    def output_padding(self, node: NodeProto) -> Size:
        """By how much the output is larger behind; () for nothing."""
        return ()

    def problem(self, node: NodeProto) -> str:
        """What else keeps it from being replaced; "" for nothing."""
        return ""

    def attributes(self, geometry: ConvGeometry) -> dict[str, Iterable[int] | int]:
        return {
            "dilations": geometry.dilation,
            "group": geometry.groups,
            "kernel_shape": geometry.kernel,
            "pads": (*(before for before, _ in geometry.pad), *(after for _, after in geometry.pad)),
            "strides": geometry.stride,
        }

    def write(self, node: NodeProto, geometry: ConvGeometry, *, last: bool) -> None:
        """As a plain node of its layer type; "SAME" pads stay so: they split by axis like the others."""
        new = plain(geometry.layer_type)  # a factor of a ConvTranspose that has one tap is a Conv
        domain, node.op_type = new.operators[0]
        if domain:
            node.domain = domain
        elif node.domain not in DOMAIN:
            node.ClearField("domain")
        _set_attributes(node, new.attributes(geometry))

    def between(
        self, node: NodeProto, source: ValueInfoProto | None, output: ValueInfoProto,
        chain: Sequence[ConvGeometry],
    ) -> list[ValueInfoProto]:  # fmt: skip
        whole = output.type.tensor_type.shape.dim
        size: list[int | None] = [None] * len(chain[0].kernel)
        if source is not None and len(source.type.tensor_type.shape.dim) == len(whole):
            size = [dim.dim_value or None for dim in source.type.tensor_type.shape.dim[2:]] or size
        # Pads may depend on the size then, which the shape does not tell.
        same = auto_pad(node).startswith("SAME")
        infos = []
        for shape in chain[:-1]:
            size = [_output(shape, axis, length) for axis, length in enumerate(size)]
            dims = [None, shape.c_out, *([None] * len(size) if same else size)]
            info = helper.make_tensor_value_info("", output.type.tensor_type.elem_type, dims)
            info.type.tensor_type.shape.dim[0].CopyFrom(whole[0])
            infos.append(info)
        return infos


def _set_attributes(node: NodeProto, wanted: Mapping[str, Iterable[int] | int]) -> None:
    """Exchange the attributes of a node that say its shape."""
    same = auto_pad(node).startswith("SAME")
    told = {"pads", "output_padding", *wanted, *(() if same else ("auto_pad",))}
    kept = [one for one in node.attribute if one.name not in told]
    new = [helper.make_attribute(name, value) for name, value in wanted.items() if not same or name != "pads"]
    del node.attribute[:]
    node.attribute.extend(sorted([*new, *kept], key=lambda one: one.name))


def _output(geometry: ConvGeometry, axis: int, length: int | None) -> int | None:
    if length is None:
        return None
    filled = tuple(length if a == axis else 10**6 for a in range(len(geometry.kernel)))
    return geometry.output_size(filled)[axis]


def _pads(
    node: NodeProto, kernel: Size, stride: Size, dilation: Size, size: Size | None
) -> tuple[tuple[tuple[int, int], ...], str]:
    """Pads (before, after) per axis, and what is wrong; "SAME" needs the input's size if it strides."""
    none = ((0, 0),) * len(kernel)
    mode = auto_pad(node)
    if mode == "VALID":
        return none, ""
    if mode == "NOTSET":
        pads = integers(node, "pads", (0,) * 2 * len(kernel))
        if len(pads) != 2 * len(kernel):
            return none, f"its pads do not fit a kernel of {len(kernel)} axes"
        return tuple(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)), ""
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return none, f"its auto_pad is {mode!r}"
    if size is None and max(stride) > 1:
        return none, f"its pads (auto_pad {mode}) depend on the input's size, which is not known; give it"
    found = []
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        needed = d * (k - 1)
        if size is not None:
            needed = max(0, (-(-size[axis] // s) - 1) * s + d * (k - 1) + 1 - size[axis])
        small = needed // 2
        found.append((small, needed - small) if mode == "SAME_UPPER" else (needed - small, small))
    return tuple(found), ""
