"""How images become inputs of a network, found: one file per place where it may stand.

A source looks at one input (`Subject`) and answers a `Preprocessing`, or None. They are asked in the order of
`SOURCES`; the first answer holds. What the user says comes before all of them.
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import InputError, ModelError
from ..images import ImageOptions
from .description import of_module, options_of
from .entrance import at_entrance
from .examples import of_examples, of_noise
from .first_norm import of_first_norm
from .onnx_metadata import of_onnx
from .transform_param import of_caffe
from .value import Look, Preprocessing, Subject, order_of, preset, values

__all__ = [
    "SOURCES",
    "Look",
    "Preprocessing",
    "Subject",
    "find",
    "options_of",
    "preset",
    "register",
    "values",
]

#: Where the model itself says it.
_SAID: tuple[Look, ...] = (of_caffe, at_entrance, of_module, of_onnx)
#: All places, in the order in which they are asked.
SOURCES: list[Look] = [*_SAID, of_examples, of_first_norm, of_noise]


def register(look: Look) -> None:
    """Ask one more place, after those where the model says it, and before what inputs and statistics show."""
    SOURCES.insert(len(_SAID), look)


def find(subject: Subject, told: ImageOptions) -> Preprocessing:
    """Find how pixels become values of an input.

    Args:
        subject: the input.
        told: what the user says; a mean, scale or preset ends the search, the rest stands over what is found.

    Returns:
        What was found; what is usual for the format of the model, and not certain, where nothing tells it.
    """
    told = told.settled(subject.channels)
    if not told.maps_values:
        found = next((one for look in SOURCES if (one := _asked(look, subject)) is not None), None)
        found = found or _usual(subject)
        return replace(found, options=told.or_else(found.options))
    said = of_caffe(subject)  # a mean that the user names goes with the net's own scale
    options = told.or_else(said.options) if said is not None else told
    if said is not None:
        return replace(said, options=options, found="named by you", certain=True)
    if options.color is None and subject.channels == 3:
        options = replace(options, color=order_of(options.channel_mean(3)))
    return Preprocessing(options, "named by you")


def _asked(look: Look, subject: Subject) -> Preprocessing | None:
    """What a source answers; nothing where a network does not run on what it is looked at with."""
    try:
        return look(subject)
    except (InputError, ModelError):
        if look is of_caffe:  # a mean file that is missing
            raise
        return None


def _usual(subject: Subject) -> Preprocessing:
    """What most networks of PyTorch get."""
    options = preset("imagenet", subject.channels)
    plain = ImageOptions(mean=options.mean, scale=options.scale)
    return Preprocessing(plain, "nothing tells it; most networks of PyTorch get that", False)
