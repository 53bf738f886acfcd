"""Layer types that BVLC Caffe lacks, against implementations of their own: OpenCV, or the forks' loops.

Every layer runs with a batch of two, is compared with its shape rule, and exported where ONNX has it.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from tests.caffe_torch.nets import definition

from twofold.caffe_torch import CaffeNet
from twofold.errors import ModelError
from twofold.export import net_to_onnx
from twofold.formats.caffe.shapes import infer_shapes

Array = np.ndarray
LOWEST = float(np.finfo(np.float32).min)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def text_of(kind: str, inputs: list[Array], params: str, tops: int = 1, *, v1: bool = False) -> str:
    """A net of one layer `y`, said as V2 or V1 does."""
    dims = [" ".join(f"dim: {n}" for n in one.shape) for one in inputs]
    head = "".join(f'input: "x{i}" input_shape {{ {one} }}\n' for i, one in enumerate(dims))
    blobs = "".join(f' bottom: "x{i}"' for i in range(len(inputs)))
    blobs += "".join(f' top: "y{i}"' for i in range(tops))
    field, named = ("layers", kind) if v1 else ("layer", f'"{kind}"')
    return f'{head}{field} {{ name: "y" type: {named} {blobs} {params} }}'


def run(
    kind: str, inputs: list[Array], params: str = "", tops: int = 1, stored: tuple[Array, ...] = (), *,
    v1: bool = False, export: bool = True, phase: str = "TEST",
) -> list[Array]:  # fmt: skip
    """What a layer gives, as its shape rule says and as its ONNX graph does."""
    spec = definition(text_of(kind, inputs, params, tops, v1=v1), phase)
    net = CaffeNet(spec, {"y": list(stored)})
    outputs = net({f"x{i}": torch.from_numpy(one) for i, one in enumerate(inputs)})
    shapes = infer_shapes(spec)
    for name, top in outputs.items():
        assert shapes[name] == tuple(top.shape)
    if export:
        graph = net_to_onnx(net.eval(), {})
        assert graph.difference(graph.proto.SerializeToString()) < 1e-5
    return [outputs[f"y{i}"].detach().numpy() for i in range(tops)]


def opencv(kind: str, x: Array, params: str, blobs: tuple[Array, ...] = ()) -> Array:
    """What OpenCV gives for a layer of its own registry."""
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text_of(kind, [x], params).encode(), np.uint8))
    net.setInput(x)
    return net.forward("y")


CHANNEL = [np.float32([[[[0.5]], [[-2.0]], [[1.5]]]]), np.float32([[[[1.0]], [[0.2]], [[-3.0]]]])]
STATISTICS = [np.float32([[[[0.3]], [[-1.0]], [[4.0]]]]), np.float32([[[[2.0]], [[0.25]], [[9.0]]]])]


def normalised(x: Array, mean: Array, variance: Array, eps: float) -> Array:
    y = (x.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + eps)
    return y * CHANNEL[0] + CHANNEL[1]


@pytest.mark.parametrize("v1", [False, True])
def test_bn_of_segnet_for_inference(v1):
    x = normal(2, 3, 4, 5)
    params = "bn_param { bn_mode: INFERENCE scale_filler { value: 1 } shift_filler { value: 0.001 } }"
    (got,) = run("BN", [x], params, stored=tuple(CHANNEL), v1=v1)
    np.testing.assert_allclose(got, x * CHANNEL[0] + CHANNEL[1], rtol=1e-6, atol=1e-6)


def test_bn_of_segnet_that_learns_normalises_by_the_batch():
    x = normal(2, 3, 4, 5) * 3 + 1
    params = "bn_param { scale_filler { value: 1 } shift_filler { value: 0.001 } }"
    got, mean, variance = run("BN", [x], params, 3, tuple(CHANNEL), export=False)
    wide = x.astype(np.float64)
    want = wide.mean((0, 2, 3), keepdims=True), wide.var((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(mean, want[0], rtol=1e-5)
    np.testing.assert_allclose(variance, want[1], rtol=1e-5)
    np.testing.assert_allclose(got, normalised(x, *want, 1e-9), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="normalises by the statistics of each batch"):
        run("BN", [x], params, stored=tuple(CHANNEL))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3,)])
@pytest.mark.parametrize(
    ("params", "eps"),
    [
        ("bn_param { slope_filler { value: 1 } frozen: true momentum: 0.95 }", 1e-5),
        ("bn_param { eps: 0.1 }", 0.1),
        ("", 1e-5),
        ("bn_param { var_eps: 0.01 moving_average: true }", 0.01),
    ],
)
def test_bn_of_pspnet_and_tsn_uses_what_is_stored(params, eps, shape):
    x = normal(2, 3, 4, 5)
    stored = tuple(blob.reshape(shape) for blob in (*CHANNEL, *STATISTICS))
    (got,) = run("BN", [x], params, stored=stored)
    np.testing.assert_allclose(got, normalised(x, *STATISTICS, eps), rtol=1e-5, atol=1e-5)


def test_bn_without_moving_average_normalises_by_the_batch():
    x = normal(2, 3, 4, 5)
    (got,) = run("BN", [x], "bn_param { decay: 0.1 }", stored=(*CHANNEL, *STATISTICS), export=False)
    wide = x.astype(np.float64)
    want = normalised(x, wide.mean((0, 2, 3), keepdims=True), wide.var((0, 2, 3), keepdims=True), 1e-10)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_training_moves_what_bn_stores_and_nothing_else_does():
    x = normal(2, 3, 4, 5)
    spec = definition(text_of("BN", [x], "bn_param { momentum: 0.75 }"), "TRAIN")
    net = CaffeNet(spec, {"y": [*CHANNEL, *STATISTICS]})
    net(torch.from_numpy(x))
    layer = net.layers["y"]
    want = 0.75 * STATISTICS[0] + 0.25 * x.mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(layer.mean.numpy(), want, rtol=1e-5)
    want = 0.75 * STATISTICS[1] + 0.25 * x.var((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(layer.variance.numpy(), want, rtol=1e-5)
    assert [one.lr_mult for one in net.learnables()] == [1, 1, 0, 0]
    frozen = CaffeNet(definition(text_of("BN", [x], "bn_param { frozen: true }"), "TRAIN"))
    frozen(torch.from_numpy(x))
    assert not frozen.layers["y"].mean.any()
    assert [one.lr_mult for one in frozen.learnables()] == [0, 0, 0, 0]


def test_a_bn_that_no_fork_has_is_rejected_with_what_was_found():
    for params, count in (("bn_param { bn_mode: INFERENCE }", 4), ("bn_param { frozen: true }", 2), ("", 3)):
        with pytest.raises(ModelError, match=f"BN.: {count} blobs and .* fit no fork"):
            run("BN", [normal(1, 3, 2, 2)], params, stored=(CHANNEL[0],) * count)


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ("height: 9 width: 13", (9, 13)),
        ("height: 2 width: 1", (2, 1)),
        ("zoom_factor: 2", (9, 13)),
        ("shrink_factor: 2", (3, 4)),
        ("shrink_factor: 2 zoom_factor: 3", (7, 10)),
        ("zoom_factor: 8", (33, 49)),
    ],
)
@pytest.mark.parametrize("v1", [False, True])
def test_interp(params, size, v1):
    x = normal(2, 3, 5, 7)
    (got,) = run("INTERP" if v1 else "Interp", [x], f"interp_param {{ {params} }}", v1=v1)
    assert got.shape[2:] == size
    np.testing.assert_allclose(got, interpolated(x, size), rtol=1e-5, atol=1e-6)
    if not v1:
        params = f"interp_param {{ height: {size[0]} width: {size[1]} }}"
        if min(size) > 1:  # OpenCV divides by 0 where an output has one row
            np.testing.assert_allclose(got, opencv("Interp", x, params), rtol=1e-4, atol=1e-5)


def test_negative_pads_of_interp_crop():
    x = normal(2, 3, 9, 8)
    (got,) = run("Interp", [x], "interp_param { height: 12 width: 5 pad_beg: -1 pad_end: -2 }")
    np.testing.assert_allclose(got, interpolated(x[:, :, 1:-2, 1:-2], (12, 5)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="pad_beg is 1"):
        run("Interp", [x], "interp_param { height: 12 width: 5 pad_beg: 1 }")
    with pytest.raises(ModelError, match="its output size is missing"):
        run("Interp", [x], "interp_param { height: 12 }")


def interpolated(x: Array, size: tuple[int, int]) -> Array:
    """Along each axis a sum of two neighbours, by the distance between the corners."""
    wide = x.astype(np.float64)
    for axis, out in ((2, size[0]), (3, size[1])):
        n = wide.shape[axis]
        place = np.arange(out) * ((n - 1) / (out - 1) if out > 1 else 0.0)
        low = np.minimum(place.astype(int), n - 1)
        high = np.minimum(low + 1, n - 1)
        shape = [-1 if one == axis else 1 for one in range(4)]
        part = (place - low).reshape(shape)
        wide = wide.take(low, axis) * (1 - part) + wide.take(high, axis) * part
    return wide


def unpooled(x: Array, mask: Array, size: tuple[int, int]) -> Array:
    top = np.zeros((*x.shape[:2], math.prod(size)), np.float32)
    for n, c in np.ndindex(x.shape[:2]):
        for value, place in zip(x[n, c].flat, mask[n, c].flat, strict=True):
            top[n, c, int(place)] = value
    return top.reshape(*x.shape[:2], *size)


@pytest.mark.parametrize(
    ("kind", "params", "size"),
    [
        ("Upsample", "upsample_param { scale: 2 }", (6, 8)),
        ("Upsample", "", (6, 8)),
        ("Upsample", "upsample_param { scale_h: 3 scale_w: 2 }", (9, 8)),
        ("Upsample", "upsample_param { scale: 2 pad_out_h: true }", (5, 8)),
        ("Upsample", "upsample_param { upsample_h: 7 upsample_w: 9 }", (7, 9)),
        ("UPSAMPLE", "upsample_param { scale: 2 }", (6, 8)),
        ("Unpooling", "unpooling_param { kernel_size: 2 stride: 2 }", (7, 9)),
        ("Unpooling", "unpooling_param { kernel_size: 3 stride: 2 unpool_size: 8 }", (8, 8)),
        ("UNPOOLING", "unpooling_param { kernel_size: 2 stride: 2 unpool_h: 6 unpool_w: 8 }", (6, 8)),
    ],
)
def test_unpooling_by_a_mask(kind, params, size):
    x = normal(2, 3, 3, 4)
    # With places that several values want.
    mask = np.random.default_rng(1).integers(0, math.prod(size), x.shape).astype(np.float32)
    mask[0, 0, 0, :2] = mask[1, 2, 2, 3] = 4
    (got,) = run(kind, [x, mask], params, v1=kind.isupper(), export=False)
    np.testing.assert_array_equal(got, unpooled(x, mask, size))


def test_upsample_without_a_mask_repeats_pixels_by_its_scale_alone():
    x = normal(2, 3, 3, 4)
    (got,) = run("Upsample", [x], "upsample_param { scale: 3 }")
    np.testing.assert_array_equal(got, x.repeat(3, 2).repeat(3, 3))
    for params in (
        "",
        "upsample_param { scale: 2 pad_out_h: true }",
        "upsample_param { scale_h: 2 scale_w: 2 }",
    ):
        with pytest.raises(ModelError, match="without a mask it is run by its scale alone"):
            run("Upsample", [x], params)


def test_a_mask_beyond_the_output_is_an_error():
    x = normal(1, 1, 2, 2)
    with pytest.raises(ModelError, match="its mask names places up to 16 of 16"):
        run("Upsample", [x, np.float32([[[[0, 1], [2, 16]]]])], "upsample_param { scale: 2 }")


def test_unpooling_without_a_mask_takes_the_first_place_of_every_window():
    x = normal(2, 1, 2, 3)
    (got,) = run("Unpooling", [x], "unpooling_param { kernel_size: 3 stride: 2 }", export=False)
    want = np.zeros((2, 1, 5, 7), np.float32)
    want[:, :, :4:2, :6:2] = x
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ModelError, match="unpool is AVE and pad"):
        run("Unpooling", [x], "unpooling_param { unpool: AVE kernel_size: 3 }")


@pytest.mark.parametrize(("kernel", "size"), [(2, (6, 8)), (3, (7, 9)), (2, (5, 7))])
def test_pooled_and_unpooled_as_in_segnet(kernel, size):
    """Forward and ONNX, over odd sizes, where the pooling rounds up."""
    params = f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: 2 }}"
    text = text_of("Pooling", [normal(2, 3, *size)], params, 2)
    text += 'layer { name: "u" type: "Upsample" bottom: "y0" bottom: "y1" top: "u" '
    text += f"upsample_param {{ upsample_h: {size[0]} upsample_w: {size[1]} }} }}"
    net = CaffeNet(definition(text))
    x = torch.from_numpy(normal(2, 3, *size))
    values, mask = (blob.numpy() for blob in net(x, blobs=["y0", "y1"]).values())
    np.testing.assert_array_equal(net(x)["u"].numpy(), unpooled(values, mask, size))
    graph = net_to_onnx(net.eval(), {})
    assert graph.difference(graph.proto.SerializeToString()) == 0
    assert "fixed" not in "".join(graph.notes)  # the batch stays open


ROIS = np.float32(
    [
        [0, 0, 0, 40, 60],
        [1, 17, 8, 55, 8],
        [1, 24.5, 24.5, 9, 9],  # ends before it begins
        [0, 60, 70, 200, 300],  # beyond the image
        [0, 300, 300, 400, 400],  # outside of it
        [1, -20, -20, 12, 30],
    ]
)  # fmt: skip


def rounded(value: float) -> int:
    return int(math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1))


def rectangles(roi: Array, bins: tuple[int, int], size: tuple[int, int], scale: float) -> list:
    x1, y1, x2, y2 = (rounded(float(np.float32(value) * np.float32(scale))) for value in roi[1:])
    found = []
    for i, j in np.ndindex(*bins):
        edges = []
        for place, first, last, count, limit in (
            (i, y1, y2, bins[0], size[0]), (j, x1, x2, bins[1], size[1]),
        ):  # fmt: skip
            step = np.float32(max(last - first + 1, 1)) / np.float32(count)
            start, end = math.floor(place * step) + first, math.ceil((place + 1) * step) + first
            edges.append(slice(min(max(start, 0), limit), min(max(end, 0), limit)))
        found.append(tuple(edges))
    return found


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("flat", [True, False])
def test_roi_pooling(v1, flat):
    x = normal(2, 3, 10, 8)
    params = "roi_pooling_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.125 }"
    rois = ROIS if flat else ROIS.reshape(-1, 5, 1, 1)
    (got,) = run("ROI_POOLING" if v1 else "ROIPooling", [x, rois], params, v1=v1, export=False)
    for n, roi in enumerate(ROIS):
        for bin_, (rows, columns) in enumerate(rectangles(roi, (3, 4), (10, 8), 0.125)):
            part = x[int(roi[0])][:, rows, columns]
            want = part.max((1, 2)) if part.size else np.zeros(3)
            np.testing.assert_array_equal(got[n].reshape(3, -1)[:, bin_], want)


def test_roi_pooling_in_onnx():
    spec = definition(text_of("ROIPooling", [normal(2, 3, 10, 8), ROIS.reshape(-1, 5, 1, 1)],
                              "roi_pooling_param { pooled_h: 3 pooled_w: 4 spatial_scale: 8 }"))  # fmt: skip
    graph = net_to_onnx(CaffeNet(spec).eval(), {})
    assert graph.difference(graph.proto.SerializeToString()) < 1e-6


def test_psroi_pooling():
    x = normal(2, 2 * 3 * 3, 10, 8)
    params = "psroi_pooling_param { spatial_scale: 0.125 output_dim: 2 group_size: 3 }"
    (got,) = run("PSROIPooling", [x, ROIS], params, export=False)
    for n, roi in enumerate(ROIS):
        x1, y1 = (rounded(value) * 0.125 for value in roi[1:3])
        x2, y2 = ((rounded(value) + 1) * 0.125 for value in roi[3:5])
        for d, i, j in np.ndindex(2, 3, 3):
            cut = []
            for place, first, last, limit in ((i, y1, y2, 10), (j, x1, x2, 8)):
                step = max(last - first, 0.1) / 3
                start, end = math.floor(place * step + first), math.ceil((place + 1) * step + first)
                cut.append(slice(min(max(start, 0), limit), min(max(end, 0), limit)))
            part = x[int(roi[0]), (d * 3 + i) * 3 + j][tuple(cut)]
            want = part.astype(np.float64).mean() if part.size else 0.0
            assert float(got[n, d, i, j]) == pytest.approx(want, abs=1e-5)
    with pytest.raises(ModelError, match="ONNX has no operator"):
        run("PSROIPooling", [x, np.abs(ROIS)], params)
    with pytest.raises(ModelError, match="18 input channels; output_dim 2 and group_size 2 need 8"):
        run("PSROIPooling", [x, ROIS], params.replace("size: 3", "size: 2"))


@pytest.mark.parametrize("field", ["pooling3d_param", "pooling_param"])
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("sizes", [(2, 2, 2, 2, 0), (3, 2, 2, 2, 0), (3, 2, 1, 1, 0), (3, 2, 2, 2, 1)])
def test_pooling3d(field, method, sizes):
    kernel, stride, depth, step, pad = sizes
    if pad and method == "MAX":
        with pytest.raises(ModelError, match="pads for pool: AVE only"):
            run("Pooling3D", [normal(1, 1, 4, 5, 6)], f"{field} {{ kernel_size: 3 kernel_depth: 1 pad: 1 }}")
        return
    x = normal(2, 2, 5, 6, 7)
    params = (
        f"{field} {{ pool: {method} kernel_size: {kernel} kernel_depth: {depth} stride: {stride} "
        f"temporal_stride: {step} pad: {pad} }}"
    )
    old = field == "pooling_param"
    (got,) = run("POOLING3D" if old else "Pooling3D", [x], params, v1=old)
    for place in np.ndindex(*got.shape[2:]):
        cut, count = [], 1
        limits = zip(
            place, (depth, kernel, kernel), (step, stride, stride), (0, pad, pad), x.shape[2:], strict=True
        )
        for i, k, s, p, n in limits:
            start, end = i * s - p, min(i * s - p + k, n + p)
            count *= end - start
            cut.append(slice(max(start, 0), min(end, n)))
        part = x[(slice(None), slice(None), *cut)]
        want = part.max((2, 3, 4)) if method == "MAX" else part.sum((2, 3, 4)) / count
        np.testing.assert_allclose(got[(..., *place)], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("sizes", "stride", "pad"),
    [
        ("stride: 2 temporal_stride: 1 pad: 1 temporal_pad: 1", (1, 2, 2), (1, 1, 1)),
        ("", 1, 0),
        ("temporal_stride: 2 pad: 1", (2, 1, 1), (0, 1, 1)),
    ],
)
def test_convolution3d(old, sizes, stride, pad):
    x, weight, bias = normal(2, 3, 4, 6, 7), normal(4, 3, 3, 2, 2, seed=1), normal(4, seed=2)
    field = "convolution_param" if old else "convolution3d_param"
    params = f"{field} {{ num_output: 4 kernel_size: 2 kernel_depth: 3 {sizes} filter_group: 2 }}"
    stored = (weight, bias.reshape(1, 1, 1, 1, 4))
    (got,) = run("CONVOLUTION3D" if old else "Convolution3D", [x], params, stored=stored, v1=old)
    wide = torch.from_numpy(x).double(), torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
    want = torch.nn.functional.conv3d(*wide, stride=stride, padding=pad).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_what_c3d_has_no_word_for_is_an_error():
    x = normal(1, 2, 4, 5, 6)
    params = "pooling_param { kernel_size: 2 kernel_depth: 2 global_pooling: true }"
    with pytest.raises(ModelError, match="Pooling3D has no global_pooling"):
        run("Pooling3D", [x], params)
    with pytest.raises(ModelError, match=r"kernel_depth and kernel_size are \[0, 2\]"):
        run("Pooling3D", [x], "pooling_param { kernel_size: 2 }")
    with pytest.raises(ModelError, match="Convolution3D has no dilation"):
        run(
            "Convolution3D",
            [x],
            "convolution_param { num_output: 2 kernel_size: 1 kernel_depth: 1 dilation: 2 }",
        )


def test_axes_squeezed_transposed_and_reversed():
    x = normal(2, 1, 3, 1)
    np.testing.assert_array_equal(run("Squeeze", [x])[0], x.squeeze())
    for axes in ((1,), (-1,), (1, 3)):
        params = "squeeze_param { " + " ".join(f"axis: {axis}" for axis in axes) + " }"
        np.testing.assert_array_equal(run("Squeeze", [x], params)[0], x.squeeze(axes))
    with pytest.raises(ModelError, match="does not take inputs of shape"):
        run("Squeeze", [x], "squeeze_param { axis: 2 }")
    y = normal(2, 3, 4, 5)
    params = "transpose_param { dim: 3 dim: 0 dim: 1 dim: 2 }"
    np.testing.assert_array_equal(run("Transpose", [y], params)[0], y.transpose(3, 0, 1, 2))
    with pytest.raises(ModelError, match="does not take inputs of shape"):
        run("Transpose", [y], "transpose_param { dim: 1 dim: 0 }")
    for axes in ((), (0,), (2,), (1, -1)):
        params = "reverse_param { " + " ".join(f"axis: {axis}" for axis in axes) + " }"
        np.testing.assert_array_equal(run("Reverse", [y], params)[0], np.flip(y, axes or 0))


def test_products_and_hard_swish():
    x, y = normal(2, 3, 4, 5), normal(3, 1, 5, seed=1)
    np.testing.assert_allclose(run("Mul", [x, y])[0], x * y, rtol=1e-6)
    np.testing.assert_allclose(run("Mul", [y, x])[0], x * y, rtol=1e-6)
    params = "mul_param { mul_shape: 4 mul_shape: 1 }"
    factor = normal(4, 1, seed=2)
    np.testing.assert_allclose(run("Mul", [x], params, stored=(factor,))[0], x * factor, rtol=1e-6)
    with pytest.raises(ModelError, match="does not take inputs of shape"):
        run("Mul", [x, normal(2, 5)])
    wide = 6 * x.astype(np.float64)
    want = wide * np.clip(wide + 3, 0, 6) / 6
    np.testing.assert_allclose(run("HardSwish", [6 * x])[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1)])
def test_axpy_has_a_shape(shape):
    a, x, y = normal(*shape), normal(2, 3, 4, 5, seed=1), normal(2, 3, 4, 5, seed=2)
    (got,) = run("Axpy", [a, x, y])
    np.testing.assert_allclose(got, a.reshape(2, 3, 1, 1) * x + y, rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="does not take inputs of shape"):
        run("Axpy", [x, x, y])


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize("v1", [False, True])
def test_smooth_l1_loss(count, sigma, v1):
    blobs = [normal(4, 6, seed=i) for i in range(count)]
    params = f"smooth_l1_loss_param {{ sigma: {sigma} }}"
    kind = "SMOOTH_L1_LOSS" if v1 else "SmoothL1Loss"
    (got,) = run(kind, blobs, params, v1=v1, export=False)
    wide = [blob.astype(np.float64) for blob in blobs] + [np.ones((4, 6))] * (4 - count)
    d = wide[2] * (wide[0] - wide[1])
    terms = np.where(np.abs(d) < sigma**-2, (sigma * d) ** 2 / 2, np.abs(d) - 0.5 / sigma**2)
    assert float(got) == pytest.approx((wide[3] * terms).sum() / 4, rel=1e-5)


@pytest.mark.parametrize("shape", [(5,), (5, 1, 1)])
@pytest.mark.parametrize("static", [False, True])
def test_lstm_that_exposes_its_states(static, shape):
    """Against torch's own, whose gates are in another order; one sequence begins anew in the middle."""
    x, cont = normal(4, 2, *shape), np.float32([[1, 1], [1, 1], [0, 1], [1, 1]])
    first = [normal(1, 2, 3, seed=i) for i in (1, 2)]
    weights = [
        normal(12, 5, seed=3),
        normal(12, seed=4),
        *[normal(12, 6, seed=5)] * static,
        normal(12, 3, seed=6),
    ]
    more = [normal(2, 6, seed=7)] * static
    params = "recurrent_param { num_output: 3 expose_hidden: true }"
    tops = run("LSTM", [x, cont, *more, *first], params, 3, tuple(weights))
    assert [top.shape for top in tops] == [(4, 2, 3), (1, 2, 3), (1, 2, 3)]
    own = torch.nn.LSTM(5 + 6 * static, 3).double()
    order = np.r_[0:6, 9:12, 6:9]
    inputs = np.concatenate([weights[0], *([weights[2]] * static)], 1)
    with torch.no_grad():
        for name, value in (
            ("weight_ih_l0", inputs),
            ("weight_hh_l0", weights[-1]),
            ("bias_ih_l0", weights[1]),
        ):
            getattr(own, name).copy_(torch.from_numpy(value[order]))
        own.bias_hh_l0.zero_()
        rows = (
            np.concatenate([x.reshape(4, 2, 5), *([np.repeat(more[0][None], 4, 0)] * static)], 2)
            if static
            else x
        )
        states = [torch.from_numpy(state).double() for state in first]
        for step in range(4):
            states = [state * torch.from_numpy(cont[step])[None, :, None] for state in states]
            row = torch.from_numpy(rows[step : step + 1].reshape(1, 2, -1)).double()
            output, states = own(row, tuple(states))
            np.testing.assert_allclose(tops[0][step], output[0].numpy(), rtol=1e-4, atol=1e-5)
    for top, state in zip(tops[1:], states, strict=True):
        np.testing.assert_allclose(top, state.numpy(), rtol=1e-4, atol=1e-5)


def test_rnn_that_exposes_its_state():
    x, cont, hidden = normal(3, 2, 5), np.float32([[1, 1], [0, 1], [1, 1]]), normal(1, 2, 4, seed=1)
    w_x, b, w_h, w_o, b_o = (
        normal(*s, seed=i) for i, s in enumerate(((4, 5), (4,), (4, 4), (4, 4), (4,)), 2)
    )
    params = "recurrent_param { num_output: 4 expose_hidden: true }"
    got, last = run("RNN", [x, cont, hidden], params, 2, (w_x, b, w_h, w_o, b_o))
    state = hidden[0].astype(np.float64)
    for step in range(3):
        state = np.tanh(x[step] @ w_x.T + b + (state * cont[step][:, None]) @ w_h.T)
        np.testing.assert_allclose(got[step], np.tanh(state @ w_o.T + b_o), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last[0], state, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="keeps its state from one pass to the next"):
        run("RNN", [x, cont], "recurrent_param { num_output: 4 }")


@pytest.mark.parametrize("kind", ["Python", "Proposal"])
def test_what_cannot_be_run_says_why(kind):
    with pytest.raises(ModelError, match=r"cannot be run; it (runs code|chooses regions).* is calibrated"):
        run(kind, [normal(1, 2, 3, 3)])
