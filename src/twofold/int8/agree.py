"""Whether an int8 model does what it did in training."""

from __future__ import annotations

from ..errors import ModelError

#: How far ONNX Runtime may be from training: as a share of what rounding does, or of what outputs vary.
_SHARE, _LEAST = 0.75, 0.01


def refuse_disagreement(found: float, rounding: float, remedy: str) -> None:
    """Refuse an int8 model that gives other outputs than in training.

    Args:
        found: the difference, as a share of what the outputs vary.
        rounding: that of the model in float32 to training, which is what rounding does.
        remedy: what can be done.

    Raises:
        ModelError: it is larger than values explain that lie near the edge between two steps.
    """
    # Such values fall to either side: a part of what rounding itself does.
    allowed = max(_SHARE * rounding, _LEAST)
    if not found <= allowed:
        raise ModelError(
            "the int8 model gives other outputs in ONNX Runtime than in training: they differ by "
            f"{found:.2g} of what they vary, {allowed:.2g} is allowed; {remedy}"
        )
