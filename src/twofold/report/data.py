"""What a report is made of: a value that saves as JSON, and from which the page is made at any time."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path

from ..codec import from_plain, strict_json, to_plain
from ..compare import Comparison
from ..errors import FormatError
from ..formats.graph import NetGraph
from ..int8.quantize import Quantized
from ..planning.check import problem_of_scheme
from ..planning.codec import plan_from_plain, plan_to_plain
from ..planning.plan import Plan, tool_version
from ..planning.tradeoff import TradeoffCurves
from ..renamed import former_fields, moved
from ..system import is_dir

#: Version of the layout; files of a later one are rejected.
SCHEMA = 1
JSON_FILE = "report.json"
#: Times by which the image of a difference is brighter than the outputs'.
BRIGHTER = 4
#: (iteration, value) of what a training shows, rising.
TrainingHistory = tuple[tuple[int, float], ...]
#: Packages whose versions a report names where they are installed.
_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "ncnn",
    "mnn",
)


@dataclass(frozen=True)
class Box:
    """A box that a detector found, in shares of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    label: str


@dataclass(frozen=True)
class Shown:
    """One output for one input, of both nets; what is not there is empty. Pairs are (before, after).

    Attributes:
        name: of the output.
        maps: data URIs of images, at one scale, and of their difference behind them.
        boxes: found boxes.
        classes: (label, value before, value after) of the largest values, largest first.
    """

    name: str
    maps: tuple[str, ...] = ()
    boxes: tuple[tuple[Box, ...], ...] = ()
    classes: tuple[tuple[str, float, float], ...] = ()


@former_fields(picture="image")
@dataclass(frozen=True)
class Sample:
    """One input, and what both nets make of it.

    Attributes:
        image: data URI of the input; "" where it is no image.
        outputs: what can be shown.
    """

    image: str
    outputs: tuple[Shown, ...]


@dataclass(frozen=True)
class Made:
    """How a report's numbers were made.

    Attributes:
        version: of twofold.
        command: the command line, word by word; empty where it was made from Python.
        packages: versions.
        machine: system and processor.
    """

    version: str = field(default_factory=tool_version)
    command: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""

    @classmethod
    def here(cls, command: Sequence[str] = ()) -> Made:
        """By what is installed, on this machine."""
        found = {"python": platform.python_version()}
        for name in _PACKAGES:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return cls(tool_version(), tuple(command), found, f"{platform.system()} {platform.machine()}")


@dataclass(frozen=True)
class Training:
    """The course of a training.

    Attributes:
        losses: (iteration, loss), smoothed as the trainer gives it.
        tests: name of a test score -> (iteration, value).
        rates: (iteration, learning rate).
        counted: what is counted: "iteration", as Caffe says, or "step".
        int8: whether the net was trained as it computes in int8; then the losses are those of that.
        int8_tests: the same test scores as `tests`, of the int8 form in ONNX Runtime.
    """

    losses: TrainingHistory = ()
    tests: Mapping[str, TrainingHistory] = field(default_factory=dict)
    rates: TrainingHistory = ()
    counted: str = "iteration"
    int8: bool = False
    int8_tests: Mapping[str, TrainingHistory] = field(default_factory=dict)

    def after(self, earlier: Training) -> Training:
        """With what a training that this one resumed had shown up to there."""
        return replace(
            self,
            losses=_joined(earlier.losses, self.losses),
            rates=_joined(earlier.rates, self.rates),
            tests=_all_joined(earlier.tests, self.tests),
            int8_tests=_all_joined(earlier.int8_tests, self.int8_tests),
        )


def _all_joined(
    earlier: Mapping[str, TrainingHistory], later: Mapping[str, TrainingHistory]
) -> dict[str, TrainingHistory]:
    names = dict.fromkeys((*earlier, *later))
    return {name: _joined(earlier.get(name, ()), later.get(name, ())) for name in names}


def _joined(earlier: TrainingHistory, later: TrainingHistory) -> TrainingHistory:
    return (*(one for one in earlier if not later or one[0] < later[0][0]), *later)


@dataclass(frozen=True)
class Recovered:
    """What a recovery gained.

    Attributes:
        errors: relative error of the outputs on held-out inputs, before and after.
        samples: number of samples that were trained on.
        notes: about the inputs.
    """

    errors: tuple[float, float]
    samples: int
    notes: tuple[str, ...] = ()


@former_fields(outlook="tradeoff_curves")
@dataclass(frozen=True)
class Report:
    """Everything that one page shows; what was not made is None or empty.

    Attributes:
        title: what the report is about, such as the model's file name.
        made: versions, machine and command.
        plan: what was decided; its own JSON object in the file.
        tradeoff_curves: what other ranks and budgets would give.
        graph: the original network.
        samples: a few inputs with both nets' outputs.
        comparison: of two models.
        quantized: what int8 costs.
        training: the course of a fine-tuning or a recovery.
        recovered: what a recovery gained.
        notes: about the report itself, such as parts that could not be made.
    """

    title: str
    made: Made
    plan: Plan | None = None
    tradeoff_curves: TradeoffCurves | None = None
    graph: NetGraph | None = None
    samples: tuple[Sample, ...] = ()
    comparison: Comparison | None = None
    quantized: Quantized | None = None
    training: Training | None = None
    recovered: Recovered | None = None
    notes: tuple[str, ...] = ()

    @property
    def boxes(self) -> str:
        """How many boxes both nets find in the inputs shown, in words; "" where neither finds any."""
        pairs = [one.boxes for sample in self.samples for one in sample.outputs if one.boxes]
        before, after = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
        return f"boxes in the inputs shown: {before} before, {after} after" if before or after else ""

    def to_json(self) -> str:
        """Serialise; equal reports give equal text."""
        names = (part.name for part in fields(self) if part.name != "plan")
        parts = {name: to_plain(getattr(self, name)) for name in names}
        plan = None if self.plan is None else plan_to_plain(self.plan)
        document = {"twofold_report": SCHEMA, "title": None, "made": None, "plan": plan, **parts}
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        # Bytes of a name that are not UTF-8 are lone surrogates, which a UTF-8 file can hold escaped only.
        return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match.group()):04x}", text)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote.

        Raises:
            FormatError: it is no report, or one of another layout.
        """
        document = strict_json(text, "report")
        if not isinstance(document, dict) or "twofold_report" not in document:
            raise FormatError("is no report: it lacks the key 'twofold_report'")
        schema = document.pop("twofold_report")
        if schema != SCHEMA:
            raise FormatError(f"the report has layout {schema}; this twofold reads layout {SCHEMA}")
        plan = document.pop("plan", None)
        report = from_plain(cls, document, "the report")
        for shown in (one for sample in report.samples for one in sample.outputs):
            if shown.boxes and len(shown.boxes) != 2:
                raise FormatError(
                    f"the report has {len(shown.boxes)} lists of boxes of {shown.name!r}, not 2"
                )
        if plan is None and report.tradeoff_curves is not None:
            raise FormatError("the report has trade-off curves and lacks the plan that they belong to")
        if plan is None:
            return report
        read = plan_from_plain(plan)
        for choice in read.choices:
            if problem := problem_of_scheme(choice):
                raise FormatError(f"the report's plan: {problem}")
        return replace(report, plan=read)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report from its JSON, or from the folder that holds it.

        Raises:
            FormatError: there is none.
        """
        path = Path(path)
        path = path / JSON_FILE if is_dir(path) else path
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FormatError(
                f"{path}: cannot read the report: {error.strerror or error}; it is written with the model, "
                "unless --no-report is given (compare: with --report)"
            ) from error
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}: is no report: not UTF-8 text") from error
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error

    page = moved("Report.page()", "twofold.report.page:page", "twofold.report.page.page(report)")
    files = moved("Report.files()", "twofold.report.page:files", "twofold.report.page.files(report)")
