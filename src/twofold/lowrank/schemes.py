"""The schemes: which stacks of convolutions can replace a layer, and how each is fitted; the registry."""

from __future__ import annotations

from collections.abc import Mapping

from twofold.conv import Array, ConvGeometry, Size
from twofold.lowrank import depthwise
from twofold.lowrank.grouped import OverGroups
from twofold.lowrank.pair import channel_fit, fit, project
from twofold.lowrank.problem import Problem
from twofold.lowrank.protocols import Begun, Factorization, Scheme
from twofold.lowrank.tucker import tucker_fit, tucker_project
from twofold.lowrank.unfold import Split, pair_chain, part
from twofold.registry import Registry


class Pair(Scheme):
    """Schemes of two convolutions that share out the kernel's axes."""

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        """Which axes belong to which convolution."""
        raise NotImplementedError

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        split = self.split(geometry, variant)
        return (min(split.rows(geometry), split.columns(geometry)),)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        return pair_chain(geometry, self.split(geometry, variant), ranks[0])

    def fit(self, problem: Problem, variant: str, ranks: Size) -> Factorization | Begun:
        split = self.split(problem.layer.geometry, variant)
        if problem.statistics is None:
            return project(problem, self.name, variant, split, ranks[0])
        return (fit if split.second else channel_fit)(problem, self.name, variant, split, ranks[0])


class Spatial(Pair):
    """One convolution along one axis, then one along the others; the axes that may come first are variants.

    A variant is named by its axes (depth, height, width), the first one in front: "hw", "wh"; "hdw".
    """

    def rejection(self, geometry: ConvGeometry) -> str | None:
        axes = len(geometry.kernel)
        if not geometry.semantics.spatial:
            return f"{geometry.semantics.words}; scheme 'channel' takes it"
        if axes not in (2, 3):
            return f"the kernel has {axes} {'axis' if axes == 1 else 'axes'}; two or three are needed"
        if sum(k > 1 for k in geometry.kernel) < 2:
            sides = "x".join(map(str, geometry.kernel))
            return f"the kernel is {sides}; {'both' if axes == 2 else 'two'} sides must be larger than 1"
        return None

    def variants(self, geometry: ConvGeometry) -> tuple[str, ...]:
        names = _axis_names(geometry)
        long = [name for name, k in zip(names, geometry.kernel, strict=False) if k > 1]
        return tuple(name + names.replace(name, "") for name in long) or (names,)

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        names = _axis_names(geometry)
        first = names.index(variant[0])
        return Split((first,), tuple(axis for axis in range(len(names)) if axis != first))


def _axis_names(geometry: ConvGeometry) -> str:
    return "dhw"[-len(geometry.kernel) :]


class Channel(Pair):
    """The layer with fewer outputs, then a 1x1 convolution; keeps Winograd kernels."""

    outputs_suffice = True

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        return Split(tuple(range(len(geometry.kernel))), ())


class Input(Pair):
    """A 1x1 convolution, then the layer with fewer inputs."""

    def rejection(self, geometry: ConvGeometry) -> str | None:
        if max(geometry.kernel) < 2:
            return "the kernel has one tap; scheme 'channel' gives the same"
        return None

    def split(self, geometry: ConvGeometry, variant: str) -> Split:
        return Split((), tuple(range(len(geometry.kernel))))


class Tucker2(Scheme):
    """A 1x1 convolution, the layer with fewer inputs and outputs, a 1x1 convolution."""

    def rejection(self, geometry: ConvGeometry) -> str | None:
        return _one_tap(geometry)

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        taps = geometry.params // (geometry.c_out * geometry.c_in)
        return min(geometry.c_in, geometry.c_out * taps), min(geometry.c_out, geometry.c_in * taps)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        return (
            part(geometry, ranks[0], geometry.c_in, ()),
            part(geometry, ranks[1], ranks[0], tuple(range(len(geometry.kernel)))),
            part(geometry, geometry.c_out, ranks[1], ()),
        )

    def fit(self, problem: Problem, variant: str, ranks: Size) -> Factorization | Begun:
        return (tucker_project if problem.statistics is None else tucker_fit)(problem, self.name, ranks)


class Depthwise(Scheme):
    """A 1x1 convolution, a depthwise one with the layer's kernel, a 1x1 convolution."""

    nested = False

    def rejection(self, geometry: ConvGeometry) -> str | None:
        return _one_tap(geometry)

    def full_rank(self, geometry: ConvGeometry, variant: str) -> Size:
        return (depthwise.full_rank(geometry),)

    def chain(self, geometry: ConvGeometry, variant: str, ranks: Size) -> tuple[ConvGeometry, ...]:
        return depthwise.depthwise_chain(geometry, ranks[0])

    def fit(self, problem: Problem, variant: str, ranks: Size) -> Factorization:
        return depthwise.fit_terms(problem, self.name, ranks[0])

    def work(self, geometry: ConvGeometry, variant: str, refine: int) -> tuple[float, float]:
        return depthwise.work(geometry, refine)

    def error_curve(self, geometry: ConvGeometry, limits: Size, known: Mapping[Size, float]) -> Array:
        return depthwise.error_curve(geometry, limits[0], known)


def _one_tap(geometry: ConvGeometry) -> str | None:
    if max(geometry.kernel) < 2:
        return "the kernel has one tap; scheme 'channel' does the same with two convolutions"
    return None


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


SCHEMES: Registry[str, OverGroups] = Registry("scheme", normalize=_key)
"""Every registered scheme by name; command line choices and tests read this table."""


def register(scheme: Scheme) -> None:
    """Add a scheme; it need not know groups, of a grouped layer it gets each group.

    Raises:
        OptionError: a scheme of that name is registered already.
    """
    SCHEMES.add(OverGroups(scheme), scheme.name)


def scheme(name: str) -> OverGroups:
    """Return the scheme of that name; case, spaces around it, '-' and '_' do not matter.

    Raises:
        OptionError: no such scheme.
    """
    return SCHEMES.find(name)


register(Spatial("spatial", "kH x 1 then 1 x kW (or the other way round)"))
register(Channel("channel", "kH x kW with fewer outputs, then 1 x 1"))
register(Input("input", "1 x 1, then kH x kW with fewer inputs"))
register(Tucker2("tucker2", "1 x 1, kH x kW with fewer inputs and outputs, 1 x 1"))
register(Depthwise("depthwise", "1 x 1, kH x kW channel by channel, 1 x 1"))
