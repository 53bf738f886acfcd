"""Where files are that a solver or a net names."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...system import exists


class Locator:
    """Finds named files in the working directory, as Caffe does, and else in the solver's folder.

    Attributes:
        folder: the solver's.
        notes: one line for every file that was taken from there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    def __call__(self, name: str, what: str) -> Path:
        """The file or folder of that name.

        Args:
            name: as the prototxt has it.
            what: what names it, for messages: "layer 'data': its source".

        Raises:
            InputError: it is at neither place.
        """
        beside = self.folder / name
        for path in (Path(name), beside):
            if name and exists(path):
                if path is beside:
                    self._note(f"{what} {name!r} is not in the working directory; taken from {beside}")
                return path
        raise InputError(
            f"{what} {name!r} is neither in the working directory, where Caffe looks, nor in the solver's "
            f"folder ({beside}); start in the folder that the paths are relative to, or correct the name"
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
