"""The parameters of a net as Caffe's solver sees them: in its order, shared ones once.

Source: BVLC Caffe 1.0, `Net::AppendParam`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError
from .layer import Layer, fitted

#: A layer's parameter blobs, by layer name, in the order of the file.
Weights = Mapping[str, Sequence[NDArray[np.generic]]]
#: A blob: position of its layer, position among the layer's blobs.
Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Learnable:
    """One parameter blob as a solver sees it; a shared one appears once.

    Attributes:
        layer: name of the layer that has it, or had it first.
        index: position among the layer's blobs.
        lr_mult: factor of the learning rate; 0 freezes the blob.
        decay_mult: factor of the weight decay.
        tensor: its values: a parameter, or a buffer for the statistics of BatchNorm.
        sharers: (layer, index) of the others that use it.
    """

    layer: str
    index: int
    lr_mult: float
    decay_mult: float
    tensor: Tensor
    sharers: tuple[tuple[str, int], ...] = ()


def learnables(layers: Mapping[int, Layer], owners: Mapping[Place, Place]) -> list[Learnable]:
    """All parameter blobs in the order of Caffe's solver.

    Args:
        layers: position -> layer.
        owners: see `share`.
    """
    users: dict[Place, list[Place]] = {}
    for position, layer in layers.items():
        for index in range(len(layer.blob_names)):
            place = (position, index)
            users.setdefault(owners.get(place, place), []).append(place)
    return [
        Learnable(
            layers[position].spec.name,
            index,
            _multiplier(layers, places, "lr_mult"),
            _multiplier(layers, places, "decay_mult"),
            layers[position].blobs[index],
            tuple((layers[p].spec.name, i) for p, i in places[1:]),
        )
        for (position, index), places in users.items()
    ]


def _multiplier(layers: Mapping[int, Layer], users: Sequence[Place], name: str) -> float:
    """Of all users of a shared blob, one that states the factor decides."""
    stated = [place for place in users if layers[place[0]].param(place[1]).has(name)]
    position, index = (stated or users)[0]
    return layers[position].multiplier(index, name)


def share(layers: Sequence[Layer], weights: Weights) -> dict[Place, Place]:
    """Join blobs that have one `param` name; gives sharer -> owner.

    Every layer has its own copy in a weight file. Caffe loads one after the other into the same memory, so
    the copy that comes last in the file is the one that counts.
    """
    rank = {name: i for i, name in enumerate(weights)}
    groups: dict[str, list[Place]] = {}
    for position, layer in enumerate(layers):
        for index in range(len(layer.blob_names)):
            name = layer.param(index).text("name")
            if name:
                groups.setdefault(name, []).append((position, index))
    owners = {}
    for owner, *others in groups.values():
        last = max([owner, *others], key=lambda place: rank.get(layers[place[0]].spec.name, -1))
        values = layers[last[0]].blobs[last[1]].detach().clone()
        for position, index in others:
            layers[position].share(index, layers[owner[0]], owner[1])
            owners[position, index] = owner
        with torch.no_grad():
            layers[owner[0]].blobs[owner[1]].copy_(values)
    return owners


def load(layers: Iterable[Layer], weights: Weights) -> None:
    """Copy stored blobs into layers of their names, one entry after the other, as Caffe does.

    Raises:
        ModelError: a layer has other blobs.
    """
    by_name = {layer.spec.name: layer for layer in reversed(list(layers))}
    with torch.no_grad():
        for name, stored in weights.items():
            layer = by_name.get(name)
            if layer is not None and stored:
                check_count(layer, stored)
                for index, (blob, array) in enumerate(zip(layer.blobs, stored, strict=False)):
                    blob.copy_(fitted(layer.spec, index, array, tuple(blob.shape)))
                layer.loaded()


def arrays(layers: Iterable[Layer]) -> dict[str, list[NDArray[np.float32]]]:
    """The parameter blobs of every layer that has any, as a weight file holds them.

    Shared ones appear under each of their layers.
    """
    return {
        layer.spec.name: [blob.detach().cpu().float().numpy().copy() for blob in layer.blobs]
        for layer in layers
        if layer.blob_names
    }


def check_count(layer: Layer, stored: Sequence[NDArray[np.generic]] | None) -> None:
    """Raise ModelError where the weights hold more or fewer blobs than the layer has."""
    if stored and layer.blob_names and len(stored) != len(layer.blob_names):
        raise ModelError(
            f"layer {layer.spec.name!r} ({layer.spec.type}): the weights hold {len(stored)} blobs, the "
            f"definition needs {len(layer.blob_names)} ({', '.join(layer.blob_names)}); give the weights of "
            "this definition"
        )
