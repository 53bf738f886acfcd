"""Nets of one layer of every type, with bottoms, axes and sizes that it may or may not take."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

from twofold.formats.caffe.schema import MESSAGES
from twofold.formats.caffe.shapes import RULES

#: Shapes of a bottom: of no axis, of one to six, with sizes that are 0, negative and as large as they come.
SHAPES = (
    (), (4,), (2, 16), (2, 3, 4), (1, 16, 6, 6), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6), (0, 16, 6, 6),
    (1, -16, 6, 6), (1, 16, 0, 6), (1, 2**63 - 1, 6, 6), (2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1),
)  # fmt: skip
AXES = (None, -7, -1, 0, 1, 3, 9, -(2**31))
#: Fields of layers that take numbers of any size.
SIZES = (0, 1, -1, 3, 2**31 - 1)


def types() -> list[str]:
    """All layer types that have a shape rule, and convolutions."""
    return sorted({*RULES, "Convolution", "InnerProduct", "Deconvolution"})


def parameter_of(type_: str) -> str | None:
    """The field of a layer's own parameters, by its type."""
    plain = type_.lower().replace("withloss", "")
    for field in MESSAGES["LayerParameter"]:
        if field.endswith("_param") and field.removesuffix("_param").replace("_", "") == plain:
            return field
    return "convolution_param" if type_ in ("Deconvolution", "Im2col") else None


def combinations() -> Iterator[str]:
    """Every type with no, one, two and three bottoms of one shape, and every axis."""
    for type_, bottoms, shape in product(types(), range(4), SHAPES):
        yield net(type_, [shape] * bottoms, None)
    for type_, axis in product(types(), AXES[1:]):
        yield net(type_, [SHAPES[4]] * 2, axis)


def by_chance(rng: random.Random) -> str:
    """A layer of any type with bottoms, axes and parameters by chance."""
    type_ = rng.choice(types())
    bottoms = [rng.choice(SHAPES) if rng.random() < 0.5 else SHAPES[4] for _ in range(rng.randrange(4))]
    return net(type_, bottoms, rng.choice(AXES), rng)


def net(type_: str, shapes: list[tuple[int, ...]], axis: int | None, rng: random.Random | None = None) -> str:
    """The text of a net of that layer between inputs and a convolution."""
    lines = ['name: "one"']
    for i, shape in enumerate(shapes):
        dims = " ".join(f"dim: {size}" for size in shape)
        lines.append(
            f'layer {{ name: "in{i}" type: "Input" top: "b{i}" input_param {{ shape {{ {dims} }} }} }}'
        )
    bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(shapes)))
    tops = " ".join(f'top: "t{i}"' for i in range(1 if rng is None else rng.randrange(4)))
    lines.append(f'layer {{ name: "x" type: "{type_}" {bottoms} {tops} {_parameters(type_, axis, rng)} }}')
    if '"t0"' in tops:
        lines.append(
            'layer { name: "c" type: "Convolution" bottom: "t0" top: "c" '
            "convolution_param { num_output: 32 kernel_size: 3 } }"
        )
    return "\n".join(lines) + "\n"


def _parameters(type_: str, axis: int | None, rng: random.Random | None) -> str:
    name = parameter_of(type_)
    if name is None:
        return ""
    message = MESSAGES["LayerParameter"][name].type_name
    known = MESSAGES.get(message, {})
    words = []
    if axis is not None and "axis" in known:
        words.append(f"axis: {axis}")
    if rng is None:
        words += [f"{key}: 3" for key in ("num_output", "kernel_size") if key in known]
    else:
        for key, field in known.items():
            if key != "axis" and rng.random() < 0.3 and field.type in ("int32", "uint32", "int64", "uint64"):
                words += [f"{key}: {rng.choice(SIZES)}"] * (1 + (field.repeated and rng.randrange(4)))
    return f"{name} {{ {' '.join(words)} }}"
