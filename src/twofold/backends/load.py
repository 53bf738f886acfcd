"""Opening a model file, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..conv import Size
from ..errors import OptionError, PlanError
from ..files.links import following_links
from ..formats.base import Model
from ..system import is_dir, is_file, reading
from .base import Backend, Part, backends

#: Endings of what a Python program makes, and only it can load.
_PYTHON = (".pt", ".pth", ".py")


def load(
    model: str | Path, weights: str | Path | None = None, *, inputs: Mapping[str, Size] | None = None,
    follow_links: bool = False,
) -> Model:  # fmt: skip
    """Load a model.

    Args:
        model: the definition: a Caffe prototxt, or an ONNX model; or the folder that holds one model.
        weights: its weights: a caffemodel, or Caffe's HDF5 weights. Without them only shapes are known. An
            ONNX model holds its own.
        inputs: shapes of inputs that replace what the definition says, as {"data": (1, 3, 224, 224)}.
        follow_links: read data of an ONNX model through links that lead out of its folder, too.

    Returns:
        The model. `convolutions()` lists what can be decomposed.

    Raises:
        FormatError: a file is missing or is not what it should be.
        ModelError: the files do not fit each other.
        OptionError: the files are given in the wrong order, the folder holds no single model, or it is a
            module of PyTorch.
        MissingExtraError: the format needs a package that is not installed.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> [layer.name for layer in model.convolutions()]
        ['conv1', 'conv2', 'conv3', 'score']
    """
    path = Path(model)
    if weights is None and is_dir(path):
        path, *more = _files_in(path)
        weights = more[0] if more else None
    suffix = path.suffix.lower()
    if suffix in _PYTHON:
        raise OptionError(
            f"{path}: a module of PyTorch is decomposed from Python, where it is made: "
            "twofold.decompose(module, ...); or export it to ONNX (torch.onnx.export) and give that file"
        )
    with following_links(follow_links):
        found: Model = _opening(suffix)(path, None if weights is None else Path(weights), inputs)
        return found


def _opening(suffix: str) -> Callable[..., Model]:
    """What opens files with a suffix: those that no format claims are what has none of its own."""

    def opens(backend: Backend) -> bool:
        return suffix in backend.suffixes

    candidates = [one for one in backends() if one.open is not None]
    backend = next(filter(opens, candidates), None) or next(one for one in candidates if not one.suffixes)
    assert backend.open is not None, "Bug: it opens nothing"
    return Part(backend.open).get("opening files")


def grouped(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Sort the paths of two models into the files of each.

    Args:
        paths: for each model its files, or the folder that a decomposition was written to.

    Raises:
        OptionError: they are not two models.
    """
    found = model_files(paths)
    if len(found) != 2 or any(map(is_definition_alone, found)):
        raise OptionError(
            f"two models are compared; {' '.join(map(str, paths))} names {len(found)}: for each give a "
            "prototxt and a caffemodel, an ONNX file, or the folder of a plan"
        )
    return found[0], found[1]


def model_files(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Sort the paths of models into the files of each.

    Args:
        paths: for each model its files, or the folder that holds it.

    Returns:
        The files of each model; of the last perhaps a definition alone.

    Raises:
        OptionError: a folder holds no single model.
    """
    found: list[tuple[Path, ...]] = []
    waiting: Path | None = None
    for path in paths:
        if waiting is not None:
            found.append((waiting, path))
            waiting = None
        elif is_dir(path):
            found.append(_files_in(path))
        elif _is_definition(path):
            waiting = path
        else:
            found.append((path,))
    return found if waiting is None else [*found, (waiting,)]


def is_definition_alone(files: Sequence[Path]) -> bool:
    """Whether the files of a model lack its weights."""
    return len(files) == 1 and _is_definition(files[0])


def _is_definition(path: Path) -> bool:
    """Whether a file is one that weights follow."""
    return path.suffix.lower() not in {*_suffixes(), *_PYTHON}


def _files_in(folder: Path) -> tuple[Path, ...]:
    """The model in a folder: the one file of a known format, or the one prototxt and one file of weights."""
    with reading(folder, "the folder of a model"):
        names = sorted(folder.iterdir())
    single = [path for path in names if path.suffix.lower() in _suffixes()]
    texts = [path for path in names if path.suffix == ".prototxt"]
    weights = [path for path in names if path.name.endswith((".caffemodel", ".caffemodel.h5"))]
    weights = weights or [path for path in names if path.suffix in (".h5", ".hdf5")]
    if len(single) == 1 and not texts:
        return (single[0],)
    if len(texts) == len(weights) == 1 and not single:
        return texts[0], weights[0]
    found = ", ".join(path.name for path in (*single, *texts, *weights)) or "none"
    raise OptionError(f"{folder}: holds no single model; name the files themselves (found {found})")


def _suffixes() -> set[str]:
    return {suffix for entry in backends() for suffix in entry.suffixes}


def load_beside(plan: str | Path, names: Iterable[str]) -> Model:
    """Load the decomposed model that was written into the folder of its plan.

    Args:
        plan: the plan file.
        names: file names of the model that the plan was made for; a decomposed model keeps them.

    Raises:
        PlanError: the folder has no such model.
    """
    folder = Path(plan).parent
    files = [folder / name for name in names]
    missing = [path.name for path in files if not is_file(path)]
    if missing or not files:
        raise PlanError(
            f"{plan}: its factors were fitted to inputs, and are read from the decomposed model beside it, "
            f"but {folder} has no {' and no '.join(missing) or 'model'}; keep the plan where it was written"
        )
    for path in files:
        if path.suffix.lower() in _suffixes():  # the others hold its weights, and it names them itself
            return load(path)
    try:
        return load(*files)
    except OptionError:  # the plan does not say which of two files is the definition
        return load(*reversed(files))
