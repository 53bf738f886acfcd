"""What devices do with channels: multiples that suit them, and what a layer costs in whole blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from twofold.conv import ConvGeometry, ConvLayer, Skipped
from twofold.errors import UsageError
from twofold.lowrank.schemes import scheme
from twofold.planning.candidates import Candidate
from twofold.planning.workload import Workload

#: Channels that a device computes together, by name.
PRESETS: Mapping[str, int] = MappingProxyType(
    {"none": 1, "tensor-cores": 8, "ascend-fp16": 16, "ascend-int8": 32}
)


def parse_multiple(given: int | str) -> tuple[int, str | None]:
    """A multiple as a number, and the device that it is named after.

    Raises:
        UsageError: neither a number nor a known name.
    """
    text = str(given).strip().lower()
    if text in PRESETS:
        return PRESETS[text], text
    if re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        return int(text), None
    raise UsageError(f"multiple: {given!r} is neither a number of 1 or more nor one of {', '.join(PRESETS)}")


@dataclass(frozen=True)
class BlockCost:
    """MACs as a device spends them: the channels of every group rounded up to whole blocks.

    Of a depthwise convolution whole blocks of channels are multiplied, too.

    Attributes:
        workload: how MACs are counted.
        block: channels that the device computes together.
    """

    workload: Workload
    block: int
    name: str = "macs"
    label: str = "MACs in whole blocks"
    base: float = 0.0

    def of_layer(self, layer: ConvLayer | Skipped) -> float:
        """MACs of a layer as it is."""
        if isinstance(layer, ConvLayer):
            return self._macs(layer, (layer.geometry,))
        # Of a layer that stays only the sum is known; it is the same before and after.
        return self.workload.layer_macs(layer)

    def of_candidate(self, layer: ConvLayer, candidate: Candidate) -> float:
        """MACs of what would replace it."""
        return self._macs(
            layer, scheme(candidate.scheme).chain(layer.geometry, candidate.variant, candidate.ranks)
        )

    def _macs(self, layer: ConvLayer, chain: tuple[ConvGeometry, ...]) -> float:
        return self.workload.macs(layer, tuple(map(self._rounded, chain)))

    def _rounded(self, geometry: ConvGeometry) -> ConvGeometry:
        groups = geometry.groups
        if groups == geometry.c_in == geometry.c_out:
            # Channels that do not mix lie side by side in a block, of which the diagonal alone is used.
            blocks = -(-groups // self.block)
            return replace(
                geometry, c_out=blocks * self.block, c_in=blocks * self.block, groups=blocks
            )  # fmt: skip
        c_out, c_in = (
            groups * -(-channels // groups // self.block) * self.block
            for channels in (geometry.c_out, geometry.c_in)
        )
        return replace(geometry, c_out=c_out, c_in=c_in)
