"""What describes a preprocessing in Python: transforms, image processors, configurations, by what they have.

No library is imported for it: a value is read by its attributes, and one that has none of them says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..images import ImageOptions
from .value import Preprocessing, Subject, values

#: Attributes of a module that describe it; a submodule is a part of the forward, and describes nothing.
_ATTRIBUTES = ("pretrained_cfg", "default_cfg", "weights", "transforms", "image_processor", "processor")
#: Names under which descriptions keep (mean, standard deviation).
_MOMENTS = (("image_mean", "image_std"), ("mean", "std"))


def of_module(subject: Subject) -> Preprocessing | None:
    """What a module carries of timm, torchvision or transformers; its parts, too, for one that is wrapped."""
    module: Any = subject.runner.described
    if not callable(getattr(module, "named_modules", None)):
        return None
    for path, one in module.named_modules():
        where = f"{type(one).__name__}{f' ({path})' if path else ''}"
        if type(one).__module__.split(".")[0] == "ultralytics":
            return Preprocessing(values(0.0, 1 / 255, "rgb"), f"Ultralytics' own, of {where}")
        for name in _ATTRIBUTES:
            if name in one._modules:
                continue
            options = options_of(getattr(one, name, None))
            if options is not None and _fits(options, subject.channels):
                return Preprocessing(options, f"{name} of {where}")
    return None


def _fits(options: ImageOptions, channels: int) -> bool:
    sizes = {np.atleast_1d(np.asarray(one)).size for one in (options.mean, options.scale) if one is not None}
    return sizes <= {1, channels}


def options_of(described: Any) -> ImageOptions | None:
    """Read a description of a preprocessing.

    Args:
        described: torchvision's weights or their transforms, a `Compose`, an image processor of
            transformers, a configuration of timm, or a dict with its keys.

    Returns:
        Mean, scale and order of channels, or None where the value says nothing of them.
    """
    if described is None or isinstance(described, (str, bytes, int, float)):
        return None
    make = getattr(described, "transforms", None)
    if callable(make) and hasattr(described, "meta"):  # torchvision's weights
        described = make()
    inner = getattr(described, "image_processor", None)  # of a processor for texts and images
    parts = [inner if inner is not None else described]
    parts += list(_steps(described))
    said = [found for part in parts if (found := _moments(part)) is not None]
    return said[0] if said else None


def _steps(described: Any) -> Iterator[Any]:
    """The steps of a `Compose`."""
    steps = getattr(described, "transforms", None)
    if isinstance(steps, Iterable) and not isinstance(steps, (str, Mapping)):
        for step in steps:
            yield step
            yield from _steps(step)


def _moments(described: Any) -> ImageOptions | None:
    def get(name: str, default: Any = None) -> Any:
        if isinstance(described, Mapping):
            return described.get(name, default)
        return getattr(described, name, default)

    if get("do_rescale", True) is False:
        return None  # what it takes is no image of 8 bits
    # transformers multiplies by 1/255 first, torchvision's ToTensor likewise.
    unit = get("rescale_factor") or 1 / 255
    if get("do_normalize", True) is False:
        return values(0.0, unit, "rgb")
    for names in _MOMENTS:
        mean, std = (_numbers(get(name)) for name in names)
        if mean and std and all(std):
            return values([one / unit for one in mean], [unit / one for one in std], "rgb")
    return None


def _numbers(value: Any) -> list[float]:
    """Finite numbers of a list, a tensor or one number; none where it is something else."""
    try:
        found = [float(one) for one in np.atleast_1d(np.asarray(value, np.float64)).ravel()]
    except (TypeError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []
