"""What a student is trained for: outputs as the original's, and where they name classes, the same classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..calibration.inputs import Batch
from ..calibration.runner import Outputs
from ..compare import are_classes
from .student import Student

#: What a sample without any variation counts as varying, as a fraction of what an output varies over all.
_FAINT = 0.1


@dataclass(frozen=True)
class Spread:
    """What an output of the original varies per value, as a variance.

    Attributes:
        total: over all values of all samples.
        within: over the values of one sample, on the mean.
    """

    total: float
    within: float


@dataclass(frozen=True)
class Scales:
    """By what parts of a loss are measured, by the name of an output.

    Attributes:
        usual: the squared error that half of the samples keep, of every output that names no classes.
        weights: what a nat of divergence counts, of every output that names classes.
        hints: what the error of each hint counts, which is no output.
    """

    usual: Mapping[str, float]
    weights: Mapping[str, float]
    hints: Mapping[str, float] = field(default_factory=dict)


class Loss(nn.Module):
    """How far a student is from the original, as a module, which is what DistributedDataParallel wraps.

    The mean over the outputs of the squared error, as a fraction of what each output varies per value in this
    sample, so that faint images are learned, too. A sample whose error is far above the usual one counts by
    its root: the errors of single images differ a hundredfold, and the few largest would lead every step.
    Where an output names classes, all samples count alike, since the doubtful ones may change their class,
    and half of the term is the divergence of the student's probabilities from the original's: the squared
    error counts alike where one class is far ahead and where two are level, and only there does the answer
    change. The errors of hints, values inside the net, are added.

    Law: 0 where the outputs are the original's, more elsewhere.

    Attributes:
        scales: what is usual for each output, and what a nat counts; until set, no error is far above.
    """

    def __init__(self, student: Student, spreads: Mapping[str, Spread], *, bf16: bool = False) -> None:
        """A loss for a student; `spreads` are those of the outputs, and `bf16` is as in `RecoverOptions`."""
        super().__init__()
        self.trained = nn.ParameterList(student.parameters())
        self._student, self._spreads, self._bf16 = student, spreads, bf16
        self.scales = Scales({}, {})

    def forward(self, batch: Batch, answer: Outputs) -> Tensor:
        """The loss on a batch for which the original gives `answer`."""
        weights, hints = self.scales.weights, self.scales.hints
        errors, divergences = self.parts(batch, answer, tuple(weights))
        squares = {name: tempered(error, self.scales.usual.get(name, 0.0)) for name, error in errors.items()}
        terms = [
            0.5 * (square + weights[name] * divergences[name]) if name in divergences else square
            for name, square in squares.items()
            if name not in hints
        ]
        hinted = [weight * squares[name] for name, weight in hints.items() if name in squares]
        return torch.stack(terms).mean() + sum(hinted)

    def parts(
        self, batch: Batch, answer: Outputs, classes: Collection[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the loss is made of.

        Returns:
            of every output that varies the relative squared error of each sample, (N,); of those that name
            classes the mean divergence.
        """
        found = self._found(batch)
        wanted = {
            name: torch.from_numpy(np.array(value)).to(found[name])
            for name, value in answer.items()
            if self._spreads[name].total > 0
        }
        errors = {}
        for name, value in wanted.items():
            lost = (found[name] - value).square().reshape(len(value), -1).mean(dim=1)
            spread = self._spreads[name]
            errors[name] = lost / (spread.total if name in classes else sizes(value, spread))
        return errors, {
            name: divergence(value, found[name], probabilities=are_classes(answer[name], alone=False))
            for name, value in wanted.items()
            if name in classes
        }

    def _found(self, batch: Batch) -> dict[str, Tensor]:
        if not self._bf16:
            return self._student.outputs(batch)
        with torch.autocast(self.trained[0].device.type, torch.bfloat16):
            found = self._student.outputs(batch)
        return {name: value.float() for name, value in found.items()}


def sizes(wanted: Tensor, spread: Spread) -> Tensor:
    """What the squared errors of samples are measured by: how much each varies, as a variance.

    Law: over all samples the mean is `spread.total`, and each is at least a small fraction of it.

    Args:
        wanted: what the original gives, (N, ...).
        spread: of this output.

    Returns:
        (N,)
    """
    own = wanted.reshape(len(wanted), -1).var(dim=1, correction=0)
    faint = _FAINT * spread.total
    return spread.total * (own + faint) / (spread.within + faint)


def tempered(errors: Tensor, usual: float) -> Tensor:
    """Mean of squared errors, of which those far above the usual one count by their root.

    Law: the gradient of an error e has 1 / sqrt(1 + e / usual) of its weight in the plain mean, which it is
    where nothing is usual.

    Args:
        errors: (N,), of the samples.
        usual: in the same unit; 0 for the plain mean.

    Source: pseudo-Huber loss of the root of each error.
    """
    if usual <= 0:
        return errors.mean()
    # 2 usual (sqrt(1 + e / usual) - 1), without the difference that rounding eats where e is small.
    return (2 * errors / (1 + (1 + errors / usual).sqrt())).mean()


def divergence(wanted: Tensor, found: Tensor, *, probabilities: bool) -> Tensor:
    """Mean Kullback-Leibler divergence of found probabilities of classes from wanted ones, in nats.

    Args:
        wanted: (N, classes), with sizes of 1 behind or not.
        found: alike.
        probabilities: whether the values are probabilities of 1; else they are scores, whose softmax is.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, at temperature 1.
    """
    logs = [
        # Rounding may make a fraction 0.
        one.clamp_min(torch.finfo(one.dtype).tiny).log() if probabilities else one.log_softmax(dim=1)
        for one in (wanted.flatten(1), found.flatten(1))
    ]
    return (logs[0].exp() * (logs[0] - logs[1])).sum(dim=1).mean()
