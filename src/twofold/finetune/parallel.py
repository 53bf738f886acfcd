"""The loss of a net that several processes train."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..caffe_torch import CaffeNet
from ..distributed import World
from .solver import LossFunction


def loss_of(world: World, net: CaffeNet) -> LossFunction:
    """The net's loss; its gradients are the mean over all processes."""
    if not world.several:
        return net.loss
    wrapped = world.wrapped(_Loss(net))
    return lambda batch: wrapped(dict(batch))


class _Loss(nn.Module):
    """A net's loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, net: CaffeNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, tops = self.net.loss(batch)
        return loss, {name: top.detach() for name, top in tops.items()}
