"""A reader under coverage guidance: `python -m fuzz.targets onnx -max_total_time=600` (needs atheris)."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run libFuzzer on one reader, from its corpus; further arguments are libFuzzer's own."""
    try:
        import atheris  # noqa: PLC0415 - optional
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    # What is to be covered must be imported under its eyes.
    with atheris.instrument_imports(include=["twofold"]):
        from twofold.errors import TwofoldError  # noqa: PLC0415

        from .readers import CORPUS, READERS  # noqa: PLC0415

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in READERS:
        print(f"name a reader: {', '.join(READERS)}", file=sys.stderr)
        return 2
    reader = READERS[name]

    def attack(data: bytes) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            path = reader.place(folder)
            path.write_bytes(data)
            reader.read(path)
        except TwofoldError:
            pass
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # libFuzzer writes what it finds into the first folder, and reads the others.
    found = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    seeds = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(found), *seeds], attack)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
