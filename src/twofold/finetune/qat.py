"""Training in int8: its beginning, and the tests of the int8 form, which ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..caffe_torch import CaffeNet
from ..caffe_torch.schedule import schedule
from ..conv import Size
from ..formats.caffe.fields import Fields
from ..formats.caffe.net import LayerSpec, NetDefinition
from .evaluate import Source, Tester
from .int8_net import Int8Model, Int8Net
from .rounding import State


def start(
    net: CaffeNet, batches: Source, testers: Sequence[Tester], state: State, device: torch.device
) -> tuple[Int8Net, list[Tester], list[str]]:
    """The int8 form of a net in training: that of the test net most like it, or of itself if there is none.

    Args:
        net: the net, with the weights to begin with.
        batches: what it is trained with.
        testers: its test nets.
        state: of a training that is resumed; if empty, the training begins.
        device: where nets compute.

    Returns:
        The int8 form; the test nets and after them their int8 forms; notes on those that cannot be tested.

    Raises:
        ModelError: the net cannot be exported or quantized.
        MissingExtraError: torchao, onnx or ONNX Runtime is not installed.
    """
    names = {spec.name for spec in net.definition.layers}
    like = [len(names.intersection(spec.name for spec in one.net.definition.layers)) for one in testers]
    best = testers[like.index(max(like))] if testers else None
    deployed, source = (net, batches) if best is None else (best.net, best.batches)
    (probe,) = source.over(range(1))
    int8 = Int8Net(net, deployed.definition, source.shapes(), probe, device)
    int8.begin(batches, state)
    more = [_int8_tester(int8, tester, device) for tester in testers]
    notes = [
        f"test net #{number} is not tested in int8: {one}"
        for number, one in enumerate(more)
        if isinstance(one, str)
    ]
    if int8.floats:
        notes.append(
            f"{', '.join(map(repr, int8.floats))}: in float32 in the int8 form, since what would be rounded "
            "there has no counterpart in training"
        )
    return int8, [*testers, *(one for one in more if isinstance(one, Tester))], notes


def _int8_tester(int8: Int8Net, tester: Tester, device: torch.device) -> Tester | str:
    """What tests the int8 form as `tester` tests the net, behind it the same layers; or why nothing can."""
    definition = tester.net.definition
    missing = set(int8.outputs) - {top for spec in definition.layers for top in spec.tops}
    if missing:
        return f"it has no blob {sorted(missing)[0]!r}"
    behind = _behind(definition, int8.outputs)
    known: set[str] = set()
    for spec in behind.layers:
        if lost := set(spec.bottoms) - known:
            return f"its {spec.label} reads {sorted(lost)[0]!r}, which the int8 form does not give"
        known.update(spec.tops)
    shapes = tester.batches.shapes()
    batch = next(iter(shapes.values()))[0]
    shapes.update({name: (batch, *size[1:]) for name, size in int8.output_shapes.items()})
    net = CaffeNet(behind, shapes=shapes).to(device)
    return Tester(net, _Computed(tester.batches, int8), tester.count, tester.number, int8=True)


def _behind(definition: NetDefinition, outputs: tuple[str, ...]) -> NetDefinition:
    """A test net without the layers that some blobs come from; these are inputs."""
    specs = definition.layers
    before = {one.index for one in schedule(specs, 0, len(specs), outputs)}
    name = "+".join(outputs)
    given = LayerSpec(name, "Input", (), outputs, Fields("LayerParameter"))
    data = [spec for spec in specs if not spec.bottoms]
    rest = [spec for index, spec in enumerate(specs) if spec.bottoms and index not in before]
    return replace(definition, layers=(*data, given, *rest))


class _Computed:
    """Batches with what the int8 form makes of them."""

    def __init__(self, batches: Source, int8: Int8Net) -> None:
        self._batches, self._int8 = batches, int8

    def shapes(self) -> dict[str, Size]:
        """See `Source.shapes`."""
        return self._batches.shapes()

    def over(self, numbers: Iterable[int]) -> Iterator[dict[str, Tensor]]:
        """See `Source.over`."""
        model = Int8Model(self._int8.content())
        for batch in self._batches.over(numbers):
            found = model.run({name: blob.numpy() for name, blob in batch.items()})
            yield {**batch, **{name: torch.from_numpy(one) for name, one in found.items()}}
