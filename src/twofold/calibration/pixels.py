"""Image files to arrays of pixels, as Caffe's own reader (OpenCV) does it: 8 bits, upright, no alpha."""

from __future__ import annotations

import glob
import sys
import warnings
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, InputError, MissingExtraError
from ..system import is_dir, is_file

if TYPE_CHECKING:
    from PIL import Image

Color = Literal["bgr", "rgb", "gray"]
COLORS: tuple[Color, ...] = get_args(Color)
Pixels = NDArray[np.uint8]
#: What names images, or is one: a path, or a `PIL.Image.Image`.
ImageSource: TypeAlias = "str | Path | Image.Image"
#: Larger images are left out: decoding takes some sixteen bytes per pixel.
MOST_PIXELS = 100_000_000


# Extensions that Pillow registers, but writes only, or reads only with another program's help.
_NOT_IMAGES = frozenset({".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr"})


class BadImageError(Exception):
    """One image cannot be used; the message is the reason."""


def find_images(source: ImageSource | Iterable[ImageSource]) -> list[Path | Image.Image]:
    """List the image files that `source` names; images of Pillow stand for themselves.

    Args:
        source: a folder (with its subfolders; hidden files and files without an image's extension are left
            out, sorted by path); a pattern with `*`, `?`, `[` or `**`; an image; a text file with one path
            per line, relative to that file, a number after the path (Caffe's label) is dropped; or paths,
            or images of Pillow, or one of these.

    Raises:
        InputError: nothing is there, or something that is neither.
    """
    if is_image(source):
        return [source]
    if not isinstance(source, (str, Path)):
        return [_one(item) for item in source] if isinstance(source, Iterable) else [_one(source)]
    return list(_files(source))


def is_image(value: object) -> TypeGuard[Image.Image]:
    """Whether a value is an image of Pillow."""
    # Whoever has one has imported Pillow.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def named(image: Path | Image.Image) -> str:
    """What a message calls an image."""
    if is_image(image):
        return str(getattr(image, "filename", "") or "an image in memory")
    return str(image)


def _one(item: object) -> Path | Image.Image:
    if isinstance(item, (str, Path)):
        return Path(item)
    if is_image(item):
        return item
    raise InputError(
        f"images are paths or images of Pillow, got a {type(item).__name__}; give arrays as data"
    )


def _files(source: str | Path) -> list[Path]:
    path = Path(source).expanduser()
    if is_dir(path):
        extensions = _extensions()
        found = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in extensions
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and is_file(file)
        )
        if not found:
            raise InputError(f"{path}: no images in this folder or below it")
        return found
    if is_file(path):
        return _listed(path) if path.suffix.lower() in {".txt", ".lst", ".list"} else [path]
    if glob.has_magic(str(source)):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if is_file(Path(name)))
        if not found:
            raise InputError(f"{source}: no file fits this pattern")
        return found
    raise InputError(f"{source}: no such file or folder")


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of images ({error})") from error
    found = []
    for line in map(str.strip, lines):
        if not line:
            continue
        named = path.parent / line
        words = line.rsplit(None, 1)
        # A label is dropped only where the whole line is no file: names may hold spaces and end in digits.
        if not is_file(named) and len(words) == 2 and _is_number(words[1]):
            named = path.parent / words[0]
        found.append(named)
    if not found:
        raise InputError(f"{path}: the list is empty")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _extensions() -> frozenset[str]:
    image = _pillow()
    image.init()
    return frozenset(image.registered_extensions()) - _NOT_IMAGES


def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("reading images", "Pillow", "torch") from error
    return Image


def read_pixels(path: Path | Image.Image, color: Color) -> Pixels:
    """Decode an image; see `decode_pixels`.

    Raises:
        BadImageError: the file is missing, broken, or no image of 8 or 16 bits.
    """
    if not isinstance(path, Path):
        return _decoded(lambda: path, color)
    try:
        if not is_file(path):
            raise BadImageError("no such file")
        content = path.read_bytes()
    except FormatError as error:
        raise BadImageError(str(error).removeprefix(f"{path}: ")) from error
    except OSError as error:
        raise BadImageError(_reason(error)) from error
    return decode_pixels(content, color)


def decode_pixels(content: bytes, color: Color | None) -> Pixels:
    """Decode the content of an image file.

    The first frame of an animation; turned upright by its EXIF orientation; alpha dropped; 16 bits cut to the
    upper 8; gray from colour by 0.299 R + 0.587 G + 0.114 B; palettes and CMYK turned into colour.

    Args:
        content: of the file.
        color: order of the channels; None for gray where the image is gray, else bgr.

    Returns:
        (H, W, 3) in the wanted order, or (H, W, 1) for gray.

    Raises:
        BadImageError: broken, or no image of 8 or 16 bits.
    """
    image_module = _pillow()
    from PIL import ImageOps  # noqa: PLC0415 - optional

    def opened() -> Image.Image:
        found = cast("Image.Image", image_module.open(BytesIO(content)))
        width, height = found.size
        if width * height > MOST_PIXELS:
            raise BadImageError(
                f"{width}x{height} are {width * height} pixels; at most {MOST_PIXELS} are decoded"
            )
        found.load()
        ImageOps.exif_transpose(found, in_place=True)
        return found

    return _decoded(opened, color)


def _decoded(opened: Callable[[], Image.Image], color: Color | None) -> Pixels:
    """Pixels of the image that a function gives."""
    from PIL import ImageOps  # noqa: PLC0415 - optional

    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of large images; neither concerns the pixels.
            warnings.simplefilter("ignore")
            image = _eight_bits(ImageOps.exif_transpose(opened()))
            if color is None:
                color = "gray" if image.mode in {"1", "L", "LA"} else "bgr"
            pixels = np.asarray(image.convert("L" if color == "gray" else "RGB"))
    except BadImageError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise BadImageError(_reason(error)) from error
    if color == "gray":
        return pixels[:, :, None]
    return np.ascontiguousarray(pixels[:, :, ::-1]) if color == "bgr" else pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    image_module = _pillow()
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError("32-bit values; give such data as .npy")
        upper: Image.Image = image_module.fromarray((values >> 8).astype(np.uint8))
        return upper
    if image.mode == "F":
        raise BadImageError("floating-point values; give such data as .npy")
    if image.mode in {"P", "PA"}:
        # Through RGBA, because a palette's transparent entry would otherwise warn and turn black.
        return image.convert("RGBA")
    return image


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if name == "UnidentifiedImageError":
        return "not an image in a known format"
    if name == "DecompressionBombError":
        return "too many pixels"
    return f"cannot be decoded ({str(error) or name})"


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize bilinearly to (H, W) as OpenCV's INTER_LINEAR: edges repeated, nothing smoothed first.

    Values differ by at most 1 from those of OpenCV, which computes in fixed point.
    """
    if pixels.shape[:2] == size:
        return pixels
    values: NDArray[Any] = pixels
    for axis, wanted in enumerate(size):
        have = pixels.shape[axis]
        where = np.clip((np.arange(wanted) + 0.5) * (have / wanted) - 0.5, 0, have - 1)
        low = np.floor(where).astype(np.intp)
        weight = (where - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        # Rows are picked before they become floats, so that a large image does not take four times as much.
        upper = values.take(np.minimum(low + 1, have - 1), axis).astype(np.float32, copy=False)
        values = values.take(low, axis).astype(np.float32, copy=False)
        values += weight * (upper - values)
    pixels_out: Pixels = np.rint(values).astype(np.uint8)
    return pixels_out
