"""nn.Conv1d, nn.Conv2d, nn.Conv3d."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ....conv import ConvGeometry, Size
from ....errors import ModelError
from .base import LayerAdapter

_RUN = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Convolution(LayerAdapter):
    """Convolutions over one to three axes."""

    layer_type = "convolution"
    modules: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def geometry(self, module: nn.Module) -> ConvGeometry:
        kernel, stride, dilation = (sizes(module, name) for name in ("kernel_size", "stride", "dilation"))
        c_out, c_in, groups = (int(getattr(module, n)) for n in ("out_channels", "in_channels", "groups"))
        return ConvGeometry(c_out, c_in, kernel, stride, _pads(module), dilation, groups, self.layer_type)

    def images(self, module: nn.Module, tensor: Tensor) -> Tensor:
        return tensor if tensor.dim() == module.weight.dim() else tensor[None]  # type: ignore[operator]

    def size(self, module: nn.Module, tensor: Tensor, batch: int) -> Size:
        return tuple(tensor.shape[-len(sizes(module, "kernel_size")) :])

    def runs(self, module: nn.Module, tensor: Tensor, batch: int) -> Fraction:
        return Fraction(self.images(module, tensor).shape[0], batch)

    def settings(self, module: nn.Module) -> Mapping[str, object]:
        return {"same": module.padding == "same", "padding_mode": module.padding_mode}

    def make(self, geometry: ConvGeometry, settings: Mapping[str, object], **options: Any) -> nn.Module:
        """With pads as the layer has them.

        Padding modes other than zeros split by axis as zeros do: what is padded along an axis are whole lines
        of the first convolution's output, which it computes like any others from the lines of its input.
        """
        same = settings.get("same", False)
        if not same and any(before != after for before, after in geometry.pad):
            raise ModelError(f"a plain module pads both sides alike, or as 'same', got {geometry.pad}")
        make: Callable[..., nn.Module] = self.modules[len(geometry.kernel) - 1]
        return make(
            geometry.c_in, geometry.c_out, geometry.kernel, geometry.stride,
            "same" if same else tuple(before for before, _ in geometry.pad), dilation=geometry.dilation,
            groups=geometry.groups, padding_mode=settings.get("padding_mode", "zeros"), **options,
        )  # fmt: skip

    def run(self, geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pad = tuple(before for before, _ in geometry.pad)
        if any(before != after for before, after in geometry.pad):
            x = functional.pad(x, [side for pair in reversed(geometry.pad) for side in pair])
            pad = (0,) * len(pad)
        run = _RUN[len(geometry.kernel)]
        return run(x, weight, bias, geometry.stride, pad, geometry.dilation, geometry.groups)


def sizes(module: nn.Module, name: str) -> Size:
    """An attribute that is a size per axis."""
    return tuple(int(size) for size in getattr(module, name))


def _pads(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Pads (before, after) per axis; for "same" what torch adds, the odd one behind."""
    kernel, dilation = sizes(module, "kernel_size"), sizes(module, "dilation")
    if module.padding == "valid":
        return ((0, 0),) * len(kernel)
    if module.padding == "same":
        needed = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in needed)
    return tuple((pad, pad) for pad in sizes(module, "padding"))
