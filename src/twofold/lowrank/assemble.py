"""From matrices to convolutions: balance, cast, correct the bias; the last step of every scheme."""

from __future__ import annotations

import numpy as np
from scipy.fft import dct

from twofold.conv import Array, ConvLayer, FactorConv, Factors, Size
from twofold.errors import ModelError, OptionError, remedy
from twofold.lowrank.unfold import Split, first_weight, pair_chain, patch_strips, second_weight


def checked_weight(layer: ConvLayer) -> Array:
    """Return a layer's weight.

    Raises:
        ModelError: it is missing, or holds values that are not finite.
    """
    if layer.weight is None:
        raise ModelError(
            f"{layer.name}: only its definition was loaded, not its weight; load the weights file too"
        )
    # Extremes tell of NaN and infinities without a mask of the weight's size.
    if not (np.isfinite(layer.weight.min()) and np.isfinite(layer.weight.max())):
        bad = layer.weight.size - int(np.isfinite(layer.weight).sum())
        raise ModelError(
            f"{layer.name}: {bad} of its {layer.weight.size} weights are NaN or infinite; "
            + remedy("leave it as it is ({}), or ", f"skip={layer.name!r}", f"--skip {layer.name}")
            + "repair the model"
        )
    return layer.weight


def checked_ranks(name: str, ranks: Size, max_ranks: Size) -> Size:
    """Return `ranks`, or raise OptionError where they are outside 1..max_ranks."""
    inside = len(ranks) == len(max_ranks) and all(1 <= r <= m for r, m in zip(ranks, max_ranks, strict=True))
    if not inside:
        raise OptionError(f"{name}: ranks {ranks} are outside 1..{max_ranks}")
    return ranks


def output_dtype(layer: ConvLayer) -> type[np.floating]:
    """Dtype of a layer's factors: its own, float32 at least."""
    wide = layer.weight is not None and layer.weight.dtype == np.float64
    return np.float64 if wide else np.float32


def balanced(V: Array, H: Array) -> tuple[Array, Array]:
    """Scale V (m, r) and H (r, n) so that column k of V and row k of H have the same norm; V H stays.

    Whichever way a method leaves the scales, the factors then fit half precision when the layer does.
    """
    scale = balance(V, H)
    return V * scale, H / scale[:, None]


def balance(V: Array, H: Array) -> Array:
    """Return the scales (r,) by which `balanced` multiplies the columns of V and divides the rows of H."""
    # Squares in float64: those of large weights leave float32's range.
    v = np.einsum("ij,ij->j", V, V, dtype=np.float64)
    h = np.einsum("ij,ij->i", H, H, dtype=np.float64)
    live = (v > 0) & (h > 0)
    scale: Array = np.ones(len(v), dtype=V.dtype)
    scale[live] = (h[live] / v[live]) ** 0.25
    return scale


def equalized(V: Array, H: Array) -> tuple[Array, Array]:
    """Mix the channels between V (m, r) and H (r, n) so that all have about the same range; V H stays.

    With one scale for all r channels, as int8 has it, and one per row of H, the squared rounding error grows
    with r max(g)^2 or, at best scaling, with max(g) sum(g), where g_k = |V_k| |H_k| falls like the singular
    values. An orthogonal matrix that spreads each channel over all of them, here the cosine transform,
    makes all g the same: (sum g)^2 / r. In float nothing changes but the last digit.
    """
    V, H = balanced(V, H)
    return dct(V, axis=1, norm="ortho"), dct(H, axis=0, norm="ortho")


def corrected_bias(layer: ConvLayer, shift: Array | None) -> Array | None:
    """The layer's bias plus (W - W') mu, which makes the mean output that of the layer.

    Args:
        layer: the layer.
        shift: (C_out,), (W - W') mu; None where no mean is known.
    """
    if shift is None:
        return None if layer.bias is None else layer.bias.astype(output_dtype(layer))
    bias = shift if layer.bias is None else layer.bias + shift
    return bias.astype(output_dtype(layer))


def pair_factors(
    scheme: str, layer: ConvLayer, split: Split, V: Array, H: Array, mean: Array | None
) -> Factors:
    """Build the stack of a scheme with two convolutions.

    Args:
        scheme: its name.
        layer: the layer that is replaced.
        split: how the kernel's axes are shared out.
        V: (rows, r).
        H: (r, columns).
        mean: (d,), mean of the input patches; None without statistics.
    """
    weight, geometry, dtype = checked_weight(layer), layer.geometry, output_dtype(layer)
    shift = None
    if mean is not None:
        strips = V.T @ patch_strips(mean, geometry, split)
        replaced = np.einsum("kot,kt->o", H.reshape(len(H), geometry.c_out, -1), strips)
        shift = weight.reshape(geometry.c_out, -1) @ mean - replaced
    V, H = balanced(V, H)
    first, second = pair_chain(geometry, split, V.shape[1])
    convs = (
        FactorConv(first, first_weight(V.astype(dtype), geometry, split)),
        FactorConv(second, second_weight(H.astype(dtype), geometry, split), corrected_bias(layer, shift)),
    )
    return Factors(scheme, (V.shape[1],), convs)
