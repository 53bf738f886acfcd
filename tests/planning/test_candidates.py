"""Candidates and their prices against the chains themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.cases import make_layer

from twofold.conv import ConvGeometry, ConvLayer, Skipped
from twofold.errors import PlanError
from twofold.lowrank.schemes import SCHEMES
from twofold.planning.candidates import candidate_at, candidates, useful_ranks
from twofold.planning.workload import Workload, chain_params, layer_params


@st.composite
def geometries(draw):
    sizes = st.integers(1, 4)
    kernel = draw(st.tuples(sizes, sizes))
    return ConvGeometry(
        draw(st.integers(1, 12)), draw(st.integers(1, 12)), kernel, draw(st.tuples(sizes, sizes)),
        ((draw(st.integers(0, 3)), 1), (0, draw(st.integers(0, 3)))), draw(st.tuples(sizes, sizes)),
    )  # fmt: skip


@settings(max_examples=60)
@given(geometries(), st.booleans(), st.sampled_from(sorted(SCHEMES)))
def test_the_grid_counts_what_the_chains_count(geometry, per_position, name):
    kind, workload = SCHEMES[name], Workload(per_position)
    if kind.rejection(geometry):
        return
    layer = make_layer("conv", geometry, ((15, 17), (9, 30)))
    for variant in kind.variants(geometry):
        axes = [np.arange(1, full + 1) for full in kind.full_rank(geometry, variant)]
        macs, params = workload.grid(layer, partial(kind.chain, geometry, variant), axes)
        for index in np.ndindex(macs.shape):
            ranks = tuple(int(axis[i]) for axis, i in zip(axes, index, strict=True))
            chain = kind.chain(geometry, variant, ranks)
            assert macs[index] == workload.macs(layer, chain)
            assert params[index] == chain_params(chain)


@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("stride", [1, 2])
def test_counts_per_position_have_the_ratio_of_a_large_image(name, stride):
    geometry = ConvGeometry.of(20, 12, (3, 5), stride=stride, pad=(1, 2))
    # Only the borders differ, whose share falls with the size.
    layer = make_layer("conv", geometry, ((2000, 2000),))
    kind = SCHEMES[name]
    for variant in kind.variants(geometry):
        chain = kind.chain(geometry, variant, tuple(5 for _ in kind.full_rank(geometry, variant)))
        image, position = (w.macs(layer, chain) / w.layer_macs(layer) for w in (Workload(), Workload(True)))
        assert image == pytest.approx(position, rel=0.01)


def test_sizes_of_all_layers_decide_how_macs_are_counted():
    geometry = ConvGeometry.of(8, 4, (3, 3))
    sized, unsized = make_layer("a", geometry), make_layer("b", geometry, ())
    assert Workload.of([sized]).unit == "image"
    assert Workload.of([sized, unsized]).unit == "output position"


@pytest.mark.parametrize("macs", [0, None])
def test_a_layer_that_stays_never_changes_the_unit(macs):
    """Neither one that is never called, nor one whose cost nobody knows."""
    geometry = ConvGeometry.of(8, 4, (3, 3))
    sized, unsized = make_layer("a", geometry), make_layer("b", geometry, ())
    left = Skipped("c", "stays", geometry, macs, geometry.params)
    assert layer_params(replace(left, params=0)) == geometry.params
    workload = Workload.of([sized, left])
    assert workload.unit == "image"
    assert workload.layer_macs(left) == 0
    per_position = Workload.of([unsized, left])
    assert per_position.layer_macs(left) == (0 if macs == 0 else geometry.params)


def test_runs_per_image_count():
    """A head that runs for 5 regions of 2 images costs 2.5 times what one region does, whatever its rank."""
    geometry = ConvGeometry.of(8, 4, (3, 3), pad=1)
    layer = replace(make_layer("a", geometry, ((7, 7),)), runs=(Fraction(5, 2),))
    assert layer.macs == 8 * 4 * 9 * 49 * 5 // 2
    chain = partial(SCHEMES["channel"].chain, geometry, "")
    macs, _ = Workload().grid(layer, chain, [np.array([1, 3, 5])])
    assert macs.tolist() == [
        Workload().macs(layer, SCHEMES["channel"].chain(geometry, "", (rank,))) for rank in (1, 3, 5)
    ]


@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize(
    "geometry", [ConvGeometry.of(24, 16, (3, 3)), ConvGeometry.of(10, 24, (5, 3), stride=(1, 2))]
)
def test_every_cheaper_multiple_is_a_candidate_or_is_beaten(name, multiple, geometry):
    layer, workload, kind = make_layer("conv", geometry), Workload(), SCHEMES[name]
    for variant in kind.variants(geometry):
        factorization = kind.factorize(layer, variant)
        found = candidates(layer, [factorization], workload, multiple)
        assert len({c.ranks for c in found}) == len(found)
        axes = [range(multiple, full + 1, multiple) for full in kind.full_rank(geometry, variant)]
        for ranks in np.stack(np.meshgrid(*axes), -1).reshape(-1, len(axes)).tolist():
            price = candidate_at(layer, factorization, tuple(ranks), workload)
            cheaper = (
                price.macs <= layer.macs and price.params <= geometry.params
                and (price.macs, price.params) != (layer.macs, geometry.params)
            )  # fmt: skip
            if not cheaper:
                assert price not in found
            elif len(axes) == 1:
                assert price in found
            else:
                for cost in ("macs", "params"):
                    assert any(
                        getattr(c, cost) <= getattr(price, cost) and c.energy_error <= price.energy_error
                        for c in found
                    )
        for candidate in found:
            assert candidate == candidate_at(layer, factorization, candidate.ranks, workload)
            assert all(rank % multiple == 0 for rank in candidate.ranks)


@pytest.mark.parametrize("name", ["spatial", "channel", "input"])
def test_useful_ranks_end_where_stacks_become_dearer(name):
    layer, kind = make_layer("conv", ConvGeometry.of(24, 16, (3, 3))), SCHEMES[name]
    for variant in kind.variants(layer.geometry):
        (useful,) = useful_ranks(layer, name, variant, Workload())
        factorization = kind.factorize(layer, variant)
        ranks = [c.ranks[0] for c in candidates(layer, [factorization], Workload(), 1)]
        assert ranks == list(range(1, useful + 1))


def test_a_layer_that_nothing_makes_cheaper_has_no_candidates():
    layer = make_layer("conv", ConvGeometry.of(4, 3, (3, 3)))
    factorizations = [SCHEMES["spatial"].factorize(layer, variant) for variant in ("hw", "wh")]
    assert candidates(layer, factorizations, Workload(), 16) == ()


@dataclass(frozen=True)
class Broken:
    """A factorization whose errors are no shares."""

    error: float
    scheme: str = "channel"
    variant: str = ""
    max_ranks: tuple[int, ...] = (4,)

    def energy_errors(self):
        return np.full(5, self.error)

    def energy_error(self, ranks):
        return self.error


@pytest.mark.parametrize("error", [float("nan"), float("inf"), -0.1, 1.1])
def test_errors_that_are_no_shares_are_refused(error):
    layer = make_layer("conv7", ConvGeometry.of(16, 16, (3, 3)))
    with pytest.raises(PlanError, match=r"conv7.*energy error"):
        candidates(layer, [Broken(error)], Workload(), 1)


def test_rounding_beyond_a_share_is_cut():
    layer = make_layer("conv7", ConvGeometry.of(16, 16, (3, 3)))
    assert candidates(layer, [Broken(-1e-17)], Workload(), 4)[0].energy_error == 0
    assert candidates(layer, [Broken(1 + 1e-15)], Workload(), 4)[0].relative_error == 1


@pytest.mark.parametrize(
    ("ranks", "words"), [((0,), "outside 1 to 16"), ((17,), "outside 1 to 16"), ((2, 2), "takes 1 rank")]
)
def test_ranks_that_do_not_exist(ranks, words):
    layer = make_layer("conv7", ConvGeometry.of(16, 16, (3, 3)))
    with pytest.raises(PlanError, match=f"conv7.*{words}"):
        candidate_at(layer, SCHEMES["channel"].factorize(layer, ""), ranks, Workload())


def test_the_ranks_of_a_grouped_layer_count_one_groups_channels():
    """All groups together have a multiple of 16 channels, and cost what their chain costs."""
    for groups, step in ((2, 8), (4, 4), (3, 16), (32, 1)):
        layer = make_layer("c", ConvGeometry.of(192, 192, (3, 3), pad=1, groups=groups))
        workload = Workload.of([layer])
        factorization = SCHEMES["tucker2"].factorize(layer, "")
        found = candidates(layer, [factorization], workload, 16)
        assert found
        for candidate in found:
            assert all(rank % step == 0 for rank in candidate.ranks)
            chain = SCHEMES["tucker2"].chain(layer.geometry, "", candidate.ranks)
            assert candidate.macs == layer.macs_of(chain) < layer.macs
            assert candidate.params == sum(part.params for part in chain)


def test_macs_per_position_of_stacks_with_strides():
    """Against their counts over an image that strides divide."""
    plain = ConvLayer("a", ConvGeometry.of(8, 4, (3, 3), stride=(2, 3)), None)
    turned = replace(plain, geometry=replace(plain.geometry, layer_type="transposed"))
    for layer, kind, size, more in ((plain, "convolution", (24, 36), 0), (turned, "transposed", (4, 6), 1)):
        chain = (
            ConvGeometry(5, 4, (3, 1), (2, 1), ((1, 1), (0, 0)), (1, 1), 1, kind, (more, 0)),
            ConvGeometry(8, 5, (1, 3), (1, 3), ((0, 0), (1, 1)), (1, 1), 1, kind, (0, 2 * more)),
        )
        counts, here = [], size
        for geometry in chain:
            counts.append(geometry.macs(here))
            here = geometry.output_size(here)
        places = math.prod(size if kind == "transposed" else here)
        assert Workload(per_position=True).each(layer, chain) == tuple(count / places for count in counts)
