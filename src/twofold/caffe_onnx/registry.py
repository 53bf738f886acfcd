"""Which function writes which Caffe layer type into an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable

from ..formats.caffe.registry import LayerRegistry
from ..registry import Registry
from .site import Site, Value

#: Writes a layer's nodes; gives the value of its top, or of its tops in order.
Emitter = Callable[[Site], "Value | tuple[Value, ...]"]

EMITTERS: LayerRegistry[Emitter] = LayerRegistry(
    "cannot be exported to ONNX",
    "twofold.caffe_onnx",
    """\
    from twofold.caffe_onnx import Site, register

    @register({type!r})
    def emit(site: Site) -> str:
        return site.node("Relu", site.bottoms[0])  # an ONNX operator; parameters: site.parameter(0)""",
)
#: Types that no graph needs -> why. What they are given becomes an output of the graph.
LEFT_OUT: Registry[str, str] = Registry("layer type")

register, unregister, known_types = EMITTERS.register, EMITTERS.unregister, EMITTERS.known
