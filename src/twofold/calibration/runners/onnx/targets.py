"""The values of a graph that errors are measured on: what its outputs are read out of."""

from __future__ import annotations

from collections.abc import Collection

from onnx import NodeProto

from ....errors import ModelError, OptionError
from ....formats.onnx.shapes import integer_values
from ..readout import ONNX as READOUT
from .graph import Graph, reads

#: Operators that only give values another shape.
_SAME_VALUES = frozenset(["Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"])


def checked(graph: Graph, names: tuple[str, ...]) -> tuple[str, ...]:
    """Targets that the user named.

    Raises:
        OptionError: the model does not compute one from its inputs.
    """
    for name in names:
        if graph.maker(name) is None or not graph.depends(name):
            raise OptionError(
                f"the model computes no {name!r} from its inputs; its outputs are {', '.join(graph.outputs)}"
            )
    return names


def found_in(graph: Graph, varying: Collection[str]) -> tuple[str, ...]:
    """What the outputs are read out of; of those whose size varies, the last values before of fixed size.

    Raises:
        ModelError: no output depends on the inputs.
    """
    integers = integer_values(graph.model)
    unfit, seen = integers | set(varying), set[str]()
    fixed = dict.fromkeys(
        name
        for end in graph.outputs
        for name in (_before(graph, end, unfit, seen) if end in varying else [end])
    )
    found = dict.fromkeys(name for end in fixed for name in _read_from(graph, end) if graph.depends(name))
    made = [name for name in found if graph.maker(name) is not None]
    # Sizes are whole numbers, and so are classes, which are protected where a net gives nothing else.
    protected = tuple(name for name in made if name not in integers) or tuple(made)
    if not protected:
        raise ModelError("no output of the model depends on its inputs")
    return protected


def _before(graph: Graph, name: str, unfit: Collection[str], seen: set[str]) -> list[str]:
    """The last values before one that are not unfit to be protected."""
    maker = graph.maker(name)
    if maker is None or name in seen or not graph.depends(name):
        return []
    if name not in unfit:
        return [name]
    seen.add(name)
    return [one for source in sorted(reads(maker)) for one in _before(graph, source, unfit, seen)]


def _read_from(graph: Graph, name: str) -> list[str]:
    maker = graph.maker(name)
    if maker is not None and (scores := _written_out(graph, maker)):
        return _read_from(graph, scores)
    if maker is None or maker.op_type not in READOUT:
        return [name]
    sources = [source for source in maker.input if source and graph.depends(source)]
    return [one for source in sources for one in _read_from(graph, source)]


def _written_out(graph: Graph, node: NodeProto) -> str:
    """What a softmax is of that stands as exp(x - max x) / sum exp(...), as JAX writes it; "" for others."""

    def maker(name: str, *kinds: str) -> NodeProto | None:
        found = graph.maker(name)
        while found is not None and found.op_type in _SAME_VALUES:
            found = graph.maker(found.input[0])
        return found if found is not None and found.op_type in kinds else None

    if node.op_type != "Div" or (exponential := maker(node.input[0], "Exp")) is None:
        return ""
    total = maker(node.input[1], "ReduceSum")
    if total is None or maker(total.input[0], "Exp") != exponential:
        return ""
    exponent = maker(exponential.input[0], "Sub")
    shifted = exponent is not None and maker(exponent.input[1], "ReduceMax", "Max") is not None
    return str(exponent.input[0] if exponent is not None and shifted else exponential.input[0])
