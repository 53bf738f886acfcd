"""Options of a fit."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.errors import OptionError

#: Alternations where the user does not say. The closed form is near the optimum where much of a layer is kept
#: (HED at half its MACs: 1 % off). At small ranks it is not: alternations take a tenth of the output error of
#: a ResNet-50 at 0.76 of its MACs, and more than a third of that of a small ResNet at 0.35.
REFINE = 2


@dataclass(frozen=True)
class FitOptions:
    """How factors are fitted.

    Attributes:
        ridge: multiple of the mean input variance (trace of the covariance / its size) that is added to the
            covariance's diagonal before a data-aware fit, so that inputs that never vary (dead channels)
            leave the problem solvable. The fit raises it tenfold at a time where that is not enough; the
            factorization says what was used.
        refine: alternations that improve the factors at the chosen rank after the closed form; 0 for none.
        metric_power: power of the gradient's second moment, where it was gathered, that weights the errors of
            a layer's output: 0 takes all outputs alike, 1 is the network's own metric to first order. On HED
            (VGG-16) a half and 1 end up within 6 % of each other, and 0 loses 1.3 to 2.3 times as much.
        exact_side: up to this many rows (or columns, whichever are fewer) of its unfolding a weight is
            factorized in float64, whatever its dtype; above, in its own, where that is exact enough.
        block_side: above this side, a float32 weight of which few ranks are wanted takes a block method.
    """

    ridge: float = 1e-6
    refine: int = 0
    metric_power: float = 0.5
    exact_side: int = 256
    block_side: int = 2048

    def __post_init__(self) -> None:
        if self.exact_side < 1:
            raise OptionError(f"exact_side is a number of rows, 1 or more, got {self.exact_side}")
        if not 0 <= self.ridge <= 1:
            raise OptionError(f"ridge is a multiple of the mean variance between 0 and 1, got {self.ridge}")
        if not 0 <= self.metric_power <= 1:
            raise OptionError(f"metric_power is between 0 and 1, got {self.metric_power}")
        if self.refine < 0:
            raise OptionError(f"refine counts alternations, 0 or more, got {self.refine}")
