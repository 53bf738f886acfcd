"""Laws that hold for every scheme, variant and geometry, with and without statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lowrank.cases import (
    CASES,
    GEOMETRIES,
    as_conv,
    convolve,
    correlated,
    make_layer,
    make_statistics,
    patch_length,
    statistics_of,
)

from twofold.conv import ConvGeometry, ConvLayer, Factors, LayerStatistics
from twofold.errors import ModelError, OptionError
from twofold.lowrank import SCHEMES, FitOptions, composed, energy_error, register, scheme

cases = pytest.mark.parametrize(("name", "variant", "geometry"), CASES)
#: Fits ask for the shape of the unfolded weight; strides and padding are asked for by `cases`.
FEW = tuple(GEOMETRIES[i] for i in (0, 1, 3, 4, 7, 8, 9))
few = pytest.mark.parametrize(("name", "variant", "geometry"), [case for case in CASES if case[2] in FEW])


def some_input(geometry: ConvGeometry, seed: int = 1) -> np.ndarray:
    size = tuple(
        2 * d * k + 5 + a for a, (k, d) in enumerate(zip(geometry.kernel, geometry.dilation, strict=True))
    )
    return np.random.default_rng(seed).standard_normal((2, geometry.c_in, *size))


def both(geometry: ConvGeometry) -> tuple[None, LayerStatistics]:
    """Without and with what a layer sees."""
    return None, make_statistics(geometry)


def half(ranks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, rank // 2) for rank in ranks)


@cases
def test_full_rank_reproduces_the_layer(name, variant, geometry):
    layer, x = make_layer(geometry), some_input(geometry)
    full = SCHEMES[name].full_rank(geometry, variant)
    expected = convolve(x, (as_conv(layer),))
    for statistics in both(geometry):
        for refine in (0, 1) if geometry in FEW else (0,):
            fitted = SCHEMES[name].factorize(layer, variant, statistics, options=FitOptions(refine=refine))
            assert fitted.max_ranks == full
            assert fitted.energy_error(full) < 1e-18
            actual = convolve(x, fitted.factors(full).convs)
            # The ridge of 1e-6 leaves the normal equations with a condition of up to 1e8 or so: 1e-16
            # becomes 1e-8.
            np.testing.assert_allclose(actual, expected, atol=1e-7 * np.abs(expected).max())


@cases
def test_torch_agrees_with_the_stack(name, variant, geometry):
    torch = pytest.importorskip("torch")
    from twofold.formats.torch import layer_types as kinds

    layer, x = make_layer(geometry), some_input(geometry)
    factors = SCHEMES[name].factorize(layer, variant, make_statistics(geometry))
    factors = factors.factors(half(factors.max_ranks))
    y = torch.from_numpy(x)
    for conv in factors.convs:
        bias = None if conv.bias is None else torch.from_numpy(conv.bias)
        y = kinds.convolve(conv.geometry, y, torch.from_numpy(conv.weight), bias)
    merged = ConvLayer("merged", geometry, composed(factors), factors.convs[-1].bias)
    np.testing.assert_allclose(y.numpy(), convolve(x, factors.convs), atol=1e-10)
    # One convolution with the composed weight computes the same, zeros of the padding included.
    np.testing.assert_allclose(y.numpy(), convolve(x, (as_conv(merged),)), atol=1e-10)


@cases
def test_predicted_error_is_that_of_the_factors_and_never_rises_with_the_rank(name, variant, geometry):
    layer = make_layer(geometry)
    for statistics in both(geometry):
        # Without a ridge prediction and measurement are of the same quadratic form, and agree to rounding.
        fitted = SCHEMES[name].factorize(layer, variant, statistics, options=FitOptions(ridge=0.0))
        errors = fitted.energy_errors()
        assert errors.shape == tuple(r + 1 for r in fitted.max_ranks)
        assert errors[(0,) * errors.ndim] == 1
        for ranks in np.ndindex(*errors.shape):
            if 0 in ranks or sum(ranks) % 3:
                continue
            measured = energy_error(layer, fitted.factors(ranks), statistics)
            assert fitted.energy_error(ranks) == pytest.approx(measured, rel=1e-6, abs=1e-12)
            assert fitted.relative_error(ranks) == pytest.approx(fitted.energy_error(ranks) ** 0.5)
        assert errors.min() >= 0
        for axis in range(errors.ndim):
            assert (np.diff(errors, axis=axis) <= 1e-15).all()


@few
def test_fitting_to_data_beats_fitting_to_weights(name, variant, geometry):
    layer, statistics = make_layer(geometry), make_statistics(geometry)
    full = SCHEMES[name].full_rank(geometry, variant)
    ranks = tuple(max(1, r // 3) for r in full)
    assert ranks != full
    plain = SCHEMES[name].factorize(layer, variant).factors(ranks)
    aware = SCHEMES[name].factorize(layer, variant, statistics).factors(ranks)
    assert energy_error(layer, aware, statistics) < energy_error(layer, plain, statistics)


#: What alternates; other fits are optimal as they are.
REFINED = {True: ("spatial", "input", "tucker2"), False: ("tucker2",)}


@pytest.mark.parametrize(
    ("name", "variant", "geometry"), [one for one in CASES if one[2] in FEW and one[0] in REFINED[True]]
)
def test_refining_never_hurts(name, variant, geometry):
    layer = make_layer(geometry)
    for statistics in both(geometry):
        if name in REFINED[statistics is not None]:
            closed, refined = (
                SCHEMES[name].factorize(layer, variant, statistics, options=FitOptions(refine=refine))
                for refine in (0, 3)
            )
            before, after = (
                energy_error(layer, one.factors(half(one.max_ranks)), statistics) for one in (closed, refined)
            )
            assert after <= before * (1 + 1e-6) + 1e-15


@pytest.mark.parametrize(("name", "data"), [(n, data) for data, names in REFINED.items() for n in names])
def test_refining_helps(name, data):
    geometry = GEOMETRIES[0]
    layer, statistics = make_layer(geometry), make_statistics(geometry) if data else None
    variant = SCHEMES[name].variants(geometry)[0]
    ranks = half(SCHEMES[name].full_rank(geometry, variant))
    closed, refined = (
        SCHEMES[name].factorize(layer, variant, statistics, options=FitOptions(refine=n)).factors(ranks)
        for n in (0, 3)
    )
    assert energy_error(layer, refined, statistics) < 0.999 * energy_error(layer, closed, statistics)


@few
def test_a_trial_has_the_error_that_it_says(name, variant, geometry):
    """Alternations would lower it, and take long."""
    layer = make_layer(geometry)
    for statistics in both(geometry):
        options = FitOptions(ridge=0.0, refine=2)
        fitted = SCHEMES[name].factorize(layer, variant, statistics, options=options)
        for ranks in fitted.trial_ranks() or (half(fitted.max_ranks),):
            error, factors = fitted.trial(ranks)
            assert energy_error(layer, factors, statistics) == pytest.approx(error, rel=1e-6, abs=1e-12)


@few
def test_bias_keeps_the_mean_output_and_the_error_is_of_real_outputs(name, variant, geometry):
    layer = make_layer(geometry, bias=False)
    patches = correlated(500, patch_length(geometry))
    fitted = SCHEMES[name].factorize(
        layer, variant, statistics_of(patches, geometry), options=FitOptions(ridge=0)
    )
    ranks = half(fitted.max_ranks)
    factors = fitted.factors(ranks)
    expected = patches @ layer.weight.reshape(geometry.c_out, -1).T
    actual = patches @ composed(factors).reshape(geometry.c_out, -1).T + factors.convs[-1].bias
    np.testing.assert_allclose(actual.mean(axis=0), expected.mean(axis=0), atol=1e-9)
    lost = np.sum((expected - actual) ** 2) / np.sum((expected - expected.mean(axis=0)) ** 2)
    assert fitted.energy_error(ranks) == pytest.approx(lost, rel=1e-6, abs=1e-12)


@few
def test_smaller_limit_changes_nothing_below_it(name, variant, geometry):
    layer, scheme = make_layer(geometry), SCHEMES[name]
    limit = half(scheme.full_rank(geometry, variant))
    ranks = half(limit)
    for statistics in both(geometry):
        full, limited = (scheme.factorize(layer, variant, statistics, max_ranks=m) for m in (None, limit))
        assert limited.max_ranks == limit
        if name == "tucker2" and statistics:  # the outputs' basis is that of the largest rank
            assert limited.energy_error(ranks) == pytest.approx(full.energy_error(ranks), rel=0.2)
            continue
        assert limited.energy_error(ranks) == pytest.approx(full.energy_error(ranks), rel=1e-6, abs=1e-12)
        parts = [composed(f.factors(ranks)) for f in (full, limited)]
        np.testing.assert_allclose(*parts, atol=1e-6)


@pytest.mark.parametrize("name", ["spatial", "channel", "tucker2", "depthwise"])
def test_what_a_fit_takes_grows_with_the_layer_and_its_groups(name):
    one = SCHEMES[name]
    variant = one.variants(ConvGeometry.of(64, 32, (3, 3)))[0]
    small, large, grouped = (
        one.work(ConvGeometry.of(out, into, (3, 3), groups=groups), variant, 2)
        for out, into, groups in ((64, 32, 1), (128, 64, 1), (128, 64, 2))
    )
    for less, more, both in zip(small, large, grouped, strict=True):
        assert 6 < more / less < 10  # about the third power of the side
        assert both == pytest.approx(2 * less)
    rounds = [one.work(ConvGeometry.of(64, 32, (3, 3)), variant, refine)[1] for refine in (0, 18)]
    assert (rounds[1] > 5 * rounds[0]) is (name == "depthwise")


@cases
def test_chain_and_shapes(name, variant, geometry):
    layer = make_layer(geometry, dtype=np.float32)
    fitted = SCHEMES[name].factorize(layer, variant)
    assert (fitted.scheme, fitted.variant, fitted.ridge) == (name, variant, 0)
    for ranks in {(1,) * len(fitted.max_ranks), fitted.max_ranks}:
        factors: Factors = fitted.factors(ranks)
        assert (factors.scheme, factors.ranks) == (name, ranks)
        assert factors.chain == SCHEMES[name].chain(geometry, variant, ranks)
        assert [conv.bias is None for conv in factors.convs] == [True] * (len(factors.convs) - 1) + [False]
        assert all(conv.weight.dtype == np.float32 for conv in factors.convs)
        size = some_input(geometry).shape[2:]
        out = size
        for part in factors.chain:
            out = part.output_size(out)
        assert out == geometry.output_size(size)


@few
def test_factors_share_their_norm(name, variant, geometry):
    layer = make_layer(geometry)
    big = ConvLayer("big", geometry, 1e3 * layer.weight)
    for statistics in both(geometry):
        fitted = SCHEMES[name].factorize(big, variant, statistics)
        norms = [np.linalg.norm(conv.weight) for conv in fitted.factors(fitted.max_ranks).convs]
        assert max(norms) < 1e3 * min(norms)
        if len(norms) == 2:
            assert norms[0] == pytest.approx(norms[1])


@few
def test_zero_layer_and_layer_without_bias(name, variant, geometry):
    layer = ConvLayer("zero", geometry, np.zeros(geometry.weight_shape, np.float32))
    for statistics in both(geometry):
        fitted = SCHEMES[name].factorize(layer, variant, statistics)
        assert not fitted.energy_errors().any()
        factors = fitted.factors((1,) * len(fitted.max_ranks))
        assert not composed(factors).any()
        assert (factors.convs[-1].bias is None) is (statistics is None)


@st.composite
def geometries(draw: st.DrawFn) -> ConvGeometry:
    axes = draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    pad = tuple(zip(sizes(0, 2), sizes(0, 2), strict=True))
    channels = st.integers(1, 7)
    return ConvGeometry(draw(channels), draw(channels), sizes(1, 3), sizes(1, 3), pad, sizes(1, 2))


@settings(max_examples=40)
@given(geometries(), st.booleans())
def test_any_geometry_is_exact_at_full_rank_or_refused(geometry, data):
    x = some_input(geometry)
    layer = make_layer(geometry)
    expected = convolve(x, (as_conv(layer),))
    statistics = make_statistics(geometry) if data else None
    for one in SCHEMES.values():
        reason = one.rejection(geometry)
        if reason is not None:
            with pytest.raises(OptionError, match="does not apply"):
                one.factorize(layer, one.variants(geometry)[0])
            continue
        for variant in one.variants(geometry):
            factors = one.factorize(layer, variant, statistics).factors(one.full_rank(geometry, variant))
            tolerance = 1e-6 * max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(convolve(x, factors.convs), expected, atol=tolerance)


def test_registry_finds_by_any_spelling_and_names_the_known():
    assert scheme(" Tucker-2 ") is SCHEMES["tucker2"]
    assert list(SCHEMES) == ["spatial", "channel", "input", "tucker2", "depthwise"]
    with pytest.raises(
        OptionError, match="no scheme 'svd'; known: spatial, channel, input, tucker2, depthwise"
    ):
        scheme("svd")
    with pytest.raises(OptionError, match="registered already"):
        register(SCHEMES["spatial"])


@pytest.mark.parametrize(
    ("name", "geometry", "reason"),
    [
        ("spatial", ConvGeometry.of(4, 4, (1, 3)), "1x3; both sides must be larger"),
        ("spatial", ConvGeometry.of(4, 4, (3,)), "has 1 axis; two or three are needed"),
        ("spatial", ConvGeometry.of(4, 4, (3, 1, 1)), "3x1x1; two sides must be larger"),
        ("spatial", ConvGeometry.of(4, 4, (2, 2, 2, 2)), "has 4 axes; two or three are needed"),
        ("channel", ConvGeometry.of(8, 4, (3, 3), groups=4), "depthwise convolution (groups = 4"),
        ("input", ConvGeometry.of(4, 4, (1, 1)), "one tap"),
        ("tucker2", ConvGeometry.of(4, 4, (1, 1)), "one tap"),
    ],
)
def test_rejections_say_why(name, geometry, reason):
    assert reason in SCHEMES[name].rejection(geometry)
    with pytest.raises(OptionError, match="conv: scheme"):
        SCHEMES[name].factorize(make_layer(geometry), SCHEMES[name].variants(geometry)[0])


def test_errors_of_use_are_named():
    geometry = GEOMETRIES[0]
    layer = make_layer(geometry)
    spatial = SCHEMES["spatial"]
    with pytest.raises(OptionError, match="no variant 'x'; it has 'hw', 'wh'"):
        spatial.factorize(layer, "x")
    for ranks in ((0,), (19,), (1, 1)):
        with pytest.raises(OptionError, match=r"conv: ranks .* outside"):
            spatial.factorize(layer, "hw").factors(ranks)
    with pytest.raises(ModelError, match="conv: only its definition"):
        spatial.factorize(ConvLayer("conv", geometry, None), "hw")
    for bad in (np.nan, np.inf):
        weight = np.array(layer.weight)
        weight[1, 2, 0, 0] = bad
        with pytest.raises(ModelError, match="conv: 1 of its 540 weights are NaN or infinite"):
            spatial.factorize(ConvLayer("conv", geometry, weight), "hw")
    for options in ({"ridge": -1.0}, {"refine": -1}):
        with pytest.raises(OptionError):
            FitOptions(**options)


@pytest.mark.parametrize(("name", "variant"), [("spatial", "wh"), ("channel", ""), ("tucker2", "")])
def test_layers_in_half_precision_stay_so_where_the_ranks_lose_more(name, variant):
    full = make_layer(ConvGeometry.of(40, 32, (3, 3), pad=1), dtype=np.float32)
    weight = full.weight.astype(np.float16).astype(np.float32)
    layer = ConvLayer("conv", full.geometry, weight, bits=11)
    fitted = SCHEMES[name].factorize(layer, variant)
    few = tuple(rank // 2 for rank in fitted.max_ranks)
    for ranks, halves in ((few, True), (fitted.max_ranks, False)):
        factors = fitted.factors(ranks)
        for conv in factors.convs:
            assert conv.weight.dtype == np.float32
            kept = np.array_equal(conv.weight.astype(np.float16), conv.weight)
            assert kept == halves
        assert energy_error(layer, factors) <= 1.001 * fitted.energy_error(ranks) + 1e-12
    plain = SCHEMES[name].factorize(ConvLayer("conv", full.geometry, weight), variant).factors(few)
    assert not all(np.array_equal(conv.weight.astype(np.float16), conv.weight) for conv in plain.convs)


def test_factors_beyond_half_precision_keep_float32():
    full = make_layer(ConvGeometry.of(40, 32, (3, 3), pad=1), dtype=np.float32)
    layer = ConvLayer("conv", full.geometry, full.weight * np.float32(1e12), bits=11)
    convs = SCHEMES["spatial"].factorize(layer, "hw").factors((20,)).convs
    assert all(np.isfinite(conv.weight).all() for conv in convs)
