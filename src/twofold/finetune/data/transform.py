"""What `transform_param` does to an image: crop, mirror, mean, scale.

Source: BVLC Caffe 1.0, `data_transformer.cpp`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...calibration.mean import read_mean
from ...calibration.pixels import Color
from ...errors import InputError
from .reader import Array
from .registry import Request


@dataclass(frozen=True, eq=False)
class Transform:
    """(pixel - mean) * scale of a crop, perhaps mirrored.

    Attributes:
        label: what messages call the layer.
        crop: side of the square crop; 0 for the whole image.
        random: whether the crop lies anywhere, as in training, or in the centre.
        mirror: whether half of the images are mirrored: in testing, too, if the definition says so.
        mean: (1, 1, 1), (C, 1, 1), or (C, H, W) as the uncropped images are.
        scale: factor.
        color: channels that encoded images are decoded to: "bgr", "gray", or None for as they are.
    """

    label: str
    crop: int
    random: bool
    mirror: bool
    mean: NDArray[np.float32]
    scale: float
    color: Color | None = None

    @classmethod
    def of(cls, request: Request) -> Transform:
        """The transformation that a layer asks for.

        Raises:
            InputError: the mean file cannot be read, or options contradict each other.
        """
        param, label = request.transform, request.label
        if param.flag("force_color") and param.flag("force_gray"):
            raise InputError(f"{label}: force_color and force_gray together; Caffe rejects it, too")
        values = np.asarray(param.numbers("mean_value"), np.float32).reshape(-1, 1, 1)
        if param.text("mean_file"):
            if values.size:
                raise InputError(f"{label}: mean_file and mean_value together; Caffe rejects it, too")
            path = request.locate(param.text("mean_file"), f"{label}: its mean_file")
            values = np.asarray(read_mean(path), np.float32)
            values = values if values.ndim == 3 else values.reshape(-1, 1, 1)
        return cls(
            label,
            param.integer("crop_size"),
            request.phase == "TRAIN",
            param.flag("mirror"),
            values if values.size else np.zeros((1, 1, 1), np.float32),
            param.number("scale"),
            "bgr" if param.flag("force_color") else "gray" if param.flag("force_gray") else None,
        )

    def __call__(self, image: Array, draw: Callable[[], np.random.Generator]) -> NDArray[np.float32]:
        """Transform an image.

        Args:
            image: (C, H, W).
            draw: gives a generator where something is random.

        Raises:
            InputError: the image is smaller than the crop, or of another shape than the mean.
        """
        height, width = image.shape[1:]
        side, mean = self.crop, self.mean
        self._check(image.shape)
        rng = draw() if self.mirror or (side and self.random) else None
        if side:
            if rng is not None and self.random:
                top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            else:
                top, left = (height - side) // 2, (width - side) // 2
            window = (slice(None), slice(top, top + side), slice(left, left + side))
            image = image[window]
            mean = mean[window] if mean.shape[1:] == (height, width) else mean
        values = (image.astype(np.float32) - mean) * np.float32(self.scale)
        return values[:, :, ::-1] if self.mirror and rng is not None and rng.integers(2) else values

    def _check(self, shape: tuple[int, ...]) -> None:
        channels, height, width = shape
        if self.crop > min(height, width):
            raise InputError(
                f"{self.label}: an image of {height}x{width} is smaller than crop_size {self.crop}"
            )
        if self.mean.shape[0] not in (1, channels) or self.mean.shape[1:] not in ((1, 1), (height, width)):
            raise InputError(
                f"{self.label}: the mean has shape {self.mean.shape}, an image {shape}; Caffe needs one mean "
                "value, one per channel, or a mean file of the images' shape"
            )
