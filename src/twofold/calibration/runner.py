"""What calibration needs of whatever runs a model: a protocol, so that each runtime is one file.

Everything works batch by batch. A layer's inputs are looked at while the network runs and then let go; what
candidates do to the outputs is found by running only what lies behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..conv import ConvLayer, Factors
from .inputs import Batch, SampleShape

#: Protected outputs by name, (N, ...) each.
Outputs = Mapping[str, NDArray[np.float32]]
#: Layers with the stacks that stand in their places.
Stacks = Sequence[tuple[ConvLayer, Factors]]


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """What one use of a convolution saw in one batch.

    Attributes:
        layer: name of the layer, the owner's where several share a weight.
        inputs: (N, C_in, *size), before padding; of a fully connected layer (N, C_in, positions).
        gradients: (N, C_out, *size of the output), of a random projection of the protected outputs; None
            where none were asked for.
    """

    layer: str
    inputs: NDArray[np.float32]
    gradients: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Place:
    """A value near the network's inputs.

    Attributes:
        name: of the layer that is given it.
        run: gives it, (N, C, ...), for a batch.
    """

    name: str
    run: Callable[[Batch], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Norm(Place):
    """What a batch normalisation is given.

    Attributes:
        mean: (C,) as it is stored.
        variance: likewise.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]


class Runner(Protocol):
    """Runs one model on batches of inputs."""

    @property
    def inputs(self) -> Mapping[str, SampleShape]:
        """Shape of a sample of every input that must be fed."""

    @property
    def examples(self) -> Mapping[str, NDArray[np.float32]]:
        """Inputs that came with the model, (N, *shape) by name; empty where none did."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values that are protected: what a decomposition should change least."""

    @property
    def network_outputs(self) -> tuple[str, ...]:
        """Names of the model's own outputs, whatever is protected."""

    @property
    def varying(self) -> frozenset[str]:
        """Names of values whose size depends on those of the inputs, as lists of boxes do."""

    @property
    def stopped(self) -> tuple[str, ...]:
        """Why parts of the model cannot be run, in words; empty where all of it can."""

    @property
    def runtime(self) -> str:
        """What runs the model, in words."""

    @property
    def differentiable(self) -> bool:
        """Whether `record_inputs` can give gradients."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the model is run."""

    @property
    def described(self) -> object:
        """What may describe the inputs: a Caffe net, a file's metadata by name, or a module."""

    @property
    def any_size(self) -> bool:
        """Whether samples of other sizes than `inputs` may run: the shapes are those of examples."""

    def entrance(self) -> Place | None:
        """What the first layer with weights is given; None where that cannot be seen."""

    def first_norm(self) -> Norm | None:
        """What the first batch normalisation is given, and its statistics; None where there is none."""

    def reached(self, layers: Sequence[ConvLayer]) -> tuple[ConvLayer, ...]:
        """Those of `layers` that the protected outputs depend on, in the order in which they run."""

    def record_inputs(
        self, layers: Sequence[ConvLayer], batch: Batch, gradients: np.random.Generator | None = None,
        stacks: Stacks = (),
    ) -> Iterator[LayerInputs]:  # fmt: skip
        """Run a batch and show every use of every layer once.

        Args:
            layers: what to look at.
            batch: inputs by name.
            gradients: draws the projection of the outputs whose gradient is shown too; None for none.
            stacks: what stands in the place of some layers meanwhile; not together with gradients.
        """

    def run(self, batch: Batch, stacks: Stacks = ()) -> Outputs:
        """Run a batch, with stacks in the place of some layers and of those that share their weights."""

    def trials(
        self, candidates: Sequence[tuple[ConvLayer, Sequence[Factors]]], batch: Batch
    ) -> Iterator[tuple[str, int, Outputs]]:
        """Swap in one candidate at a time, alone.

        Args:
            candidates: layers in the order of `reached`, each with stacks to try.
            batch: inputs by name.

        Yields:
            (layer name, index of the stack, outputs).
        """

    @property
    def has_batch_statistics(self) -> bool:
        """Whether `batch_statistics` changes anything: there are batch normalisations."""

    def batch_statistics(self) -> AbstractContextManager[None]:
        """Within the context every batch normalisation uses the batch's own mean and variance."""
