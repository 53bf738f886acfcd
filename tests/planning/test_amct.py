"""The reference's rule against ranks that its own code gave, and EVBMF against matrices of known rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.conv import ConvGeometry
from twofold.planning.amct import AmctRange, amct_mode, amct_rank, amct_rejection, amct_round
from twofold.planning.evbmf import evbmf_rank

DATA = Path(__file__).parents[1] / "data" / "amct-ranks"
ROWS = json.loads((DATA / "ranks.json").read_text())
SPECTRA = np.load(DATA / "spectra.npz")
VARIANTS = {"SCFK": "hw", "FCFK": "wh", "SCSK": "wh", "FCSK": "hw"}


def geometry_of(row: dict[str, Any]) -> ConvGeometry:
    return ConvGeometry.of(
        row["c_out"], row["c_in"], tuple(row["kernel"]), stride=tuple(row["stride"]),
        dilation=row["dilation"], groups=row["groups"],
    )  # fmt: skip


def test_all_rows_are_there():
    assert len(ROWS) == 182
    assert sum("rank" in row for row in ROWS) > 80


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda r: f"{r['c_out']}-{r['c_in']}-{r['kernel']}-{r.get('spectrum')}"
)
def test_mode_and_rank_of_the_reference(row):
    if row["c_in"] % row["groups"] or row["c_out"] % row["groups"]:
        # Four rows of the recording are no convolutions at all; here they cannot even be built.
        assert row["mode"] == "UNCHANGE"
        with pytest.raises(ValueError, match="groups must divide"):
            geometry_of(row)
        return
    geometry = geometry_of(row)
    rejection = amct_rejection(geometry)
    if row["mode"] == "UNCHANGE":
        assert rejection is not None
        assert rejection.startswith("AMCT needs")
        return
    assert rejection is None
    assert amct_mode(geometry).code == row["mode"]
    assert amct_mode(geometry).variant == VARIANTS[row["mode"]]
    spectrum, allowed = SPECTRA[row["singular_values"]], AmctRange.of(geometry)
    assert amct_rank(geometry, spectrum) == row["rank"]
    # A range without choice needs no spectrum.
    assert allowed.short == len(spectrum)
    assert allowed.only_rank in (None, row["rank"])


def test_the_fourth_mode_joins_the_smaller_axes():
    mode = amct_mode(ConvGeometry.of(64, 128, (5, 3)))
    assert (mode.code, mode.variant) == ("FCSK", "hw")


@pytest.mark.parametrize(
    ("rank", "rounded"), [(0, 16), (2, 16), (23, 16 + 16), (24, 32), (32, 32), (39, 48), (153, 160)]
)
def test_rounding(rank, rounded):
    # 23 rounds to 16, which is below 0.9 * 23 = 20.7, hence one step more; 39 to 32 < 35.1.
    assert amct_round(rank) == rounded


@pytest.mark.parametrize(
    ("geometry", "word"),
    [
        (ConvGeometry.of(64, 64, (3, 3), groups=2), "groups"),
        (ConvGeometry.of(64, 64, (3, 3), dilation=2), "dilation"),
        (ConvGeometry.of(64, 64, (3, 3), stride=3), "strides"),
        (ConvGeometry.of(64, 64, (1, 1)), "kernels"),
        (ConvGeometry.of(63, 64, (3, 3)), "64 channels"),
        (ConvGeometry.of(64, 2, (7, 7)), "at least 16"),
        (ConvGeometry.of(64, 64, (3, 3, 3)), "spatial axes"),
    ],
)
def test_rejections_give_their_reason(geometry, word):
    assert word in (amct_rejection(geometry) or "")


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (80, 80)])
@pytest.mark.parametrize("rank", [0, 3, 10])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_evbmf_finds_the_rank_under_noise(shape, rank, scale):
    rng = np.random.default_rng(rank)
    signal = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    values = np.linalg.svd(3 * signal + rng.standard_normal(shape), compute_uv=False)
    assert evbmf_rank(scale * values, shape) == rank


def test_the_thorough_search_meets_the_lowest_minimum():
    # Brent's search ends at 0 on this spectrum although 332 values stand clear of the noise.
    row = next(
        r for r in ROWS if r.get("spectrum") == "cliff" and r["c_out"] == 256 and r["stride"] == [2, 2]
    )
    values, allowed = SPECTRA[row["singular_values"]], AmctRange.of(geometry_of(row))
    assert evbmf_rank(values, (allowed.short, allowed.long), thorough=False) == 0
    assert evbmf_rank(values, (allowed.short, allowed.long)) == 332


@pytest.mark.parametrize("values", [np.zeros(20), np.ones(20), np.r_[np.ones(3), np.zeros(17)]])
def test_degenerate_spectra_have_an_answer(values):
    assert 0 <= evbmf_rank(values, (20, 40)) <= 20
    assert evbmf_rank(values[:1], (1, 1)) in (0, 1)


def test_evbmf_wants_all_singular_values():
    with pytest.raises(ValueError, match="20 singular values, not 19"):
        evbmf_rank(np.ones(19), (20, 40))
