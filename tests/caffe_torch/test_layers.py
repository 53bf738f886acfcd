"""What the recorded cases do not reach: corner cases by definition, gradients, states, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.caffe_torch.nets import layer_text, net

from twofold.caffe_torch import CaffeNet, reset_state
from twofold.caffe_torch.detection import decode
from twofold.errors import ModelError


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(kind: str, *x: torch.Tensor, params: str = "", tops: int = 1, phase: str = "TEST"):
    text = layer_text(kind, tuple(x[0].shape), params, len(x), tops)
    own = net(text, phase)
    result = own(*x)
    return result["y0"] if tops == 1 else tuple(result[f"y{i}"] for i in range(tops))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("size", [(7, 9), (8, 8), (5, 11)])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 0), (3, 2, 2), (3, 3, 1), (1, 2, 0)])
@pytest.mark.parametrize("mode", ["CEIL", "FLOOR"])
def test_pooling_against_its_definition(method, size, kernel, stride, pad, mode):
    x = normal(1, 1, *size)
    params = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {mode}"
    got = run("Pooling", x, params=f"pooling_param {{ {params} }}")[0, 0]
    for h in range(got.shape[0]):
        for w in range(got.shape[1]):
            window, count = [], 1
            for start, n in ((h * stride - pad, size[0]), (w * stride - pad, size[1])):
                end = min(start + kernel, n + pad)
                window.append(slice(max(start, 0), min(end, n)))
                count *= end - start
            values = x[0, 0][tuple(window)]
            largest = values.max() if count else LOWEST
            want = values.sum() / count if method == "AVE" else largest
            assert float(got[h, w]) == pytest.approx(float(want), abs=1e-6, nan_ok=True)


LOWEST = -float(np.finfo(np.float32).max)


def test_global_pooling_takes_any_size():
    own = net(layer_text("Pooling", (1, 2, 4, 4), "pooling_param { pool: MAX global_pooling: true }"))
    for size in ((4, 4), (3, 7)):
        x = normal(1, 2, *size)
        assert torch.equal(own(x)["y0"][..., 0, 0], x.amax((2, 3)))


def test_stochastic_pooling():
    x = torch.tensor([[1.0, 3.0, 0.0, 0.0]]).reshape(1, 1, 1, 4)
    params = "pooling_param { pool: STOCHASTIC kernel_h: 1 kernel_w: 2 stride_h: 1 stride_w: 2 }"
    assert run("Pooling", x, params=params).flatten().tolist() == [2.5, 0.0]
    drawn = run("Pooling", x.expand(4000, 1, 1, 4), params=params, phase="TRAIN")[:, 0, 0, 0]
    assert set(drawn.tolist()) == {1.0, 3.0}
    assert float((drawn == 3).float().mean()) == pytest.approx(0.75, abs=0.05)


def test_one_level_of_spp_is_not_flattened():
    assert run("SPP", normal(2, 3, 5, 4), params="spp_param { pyramid_height: 1 }").shape == (2, 3, 1, 1)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5)])
def test_mvn_of_few_axes(shape):
    x = normal(*shape)
    params = "mvn_param { normalize_variance: false }"
    rows = x.reshape(*shape[:2], -1)
    assert torch.allclose(run("MVN", x, params=params), (rows - rows.mean(-1, keepdim=True)).reshape(shape))


def test_lrn_of_even_size_is_refused():
    with pytest.raises(ModelError, match="layer 'y': local_size is 4; Caffe allows odd sizes only"):
        run("LRN", normal(1, 2, 3, 3), params="lrn_param { local_size: 4 }")


def test_power_of_nothing_is_a_constant():
    x = torch.tensor([1.0, np.inf, np.nan])
    assert run("Power", x, params="power_param { scale: 0 shift: 3 power: 2 }").tolist() == [9.0] * 3
    assert run("Power", x, params="power_param { power: 0 }").tolist() == [1.0] * 3


def test_dropout_only_in_training():
    x = torch.ones(10000)
    params = "dropout_param { dropout_ratio: 0.2 }"
    assert torch.equal(run("Dropout", x, params=params), x)
    dropped = run("Dropout", x, params=params, phase="TRAIN")
    assert sorted(set(dropped.tolist())) == [0.0, 1.25]
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)


def test_batchnorm_of_one_value_per_channel():
    x = normal(1, 3)
    assert torch.equal(run("BatchNorm", x, phase="TRAIN"), torch.zeros(1, 3))


@pytest.mark.parametrize(("kind", "states"), [("LSTM", 2), ("RNN", 1)])
def test_state_carries_over_or_is_exposed(kind, states):
    params = 'recurrent_param { num_output: 3 weight_filler { type: "xavier" } %s }'
    dims = "shape { dim: 2 dim: 2 dim: 4 } shape { dim: 2 dim: 2 }"
    first = "".join(f' top: "s{i}"' for i in range(states))
    read = "".join(f' bottom: "s{i}"' for i in range(states))
    give = "".join(f' top: "t{i}"' for i in range(states))
    plain = net(
        f'layer {{ name: "x" type: "Input" top: "x" top: "c" input_param {{ {dims} }} }}'
        f'layer {{ name: "y" type: "{kind}" bottom: "x" bottom: "c" top: "y" {params % ""} }}'
    )
    shown = net(
        f'layer {{ name: "x" type: "Input" top: "x" top: "c" input_param {{ {dims} }} }}'
        f'layer {{ name: "s" type: "Input" {first} input_param {{ shape {{ dim: 1 dim: 2 dim: 3 }} }} }}'
        f'layer {{ name: "y" type: "{kind}" bottom: "x" bottom: "c" {read} top: "y" {give} '
        f"{params % 'expose_hidden: true'} }}"
    )
    shown.load_state_dict(plain.state_dict())
    x, cont = normal(4, 2, 4), torch.ones(4, 2)
    parts = [plain(x[i : i + 2], cont[:2])["y"] for i in (0, 2)]
    state = {f"s{i}": torch.zeros(1, 2, 3) for i in range(states)}
    for i, part in zip((0, 2), parts, strict=True):
        result = shown({"x": x[i : i + 2], "c": cont[:2], **state})
        assert torch.allclose(result["y"], part, atol=1e-6)
        state = {f"s{k}": result[f"t{k}"] for k in range(states)}
    assert not torch.allclose(plain(x[:2], cont[:2])["y"], parts[0])
    reset_state(plain)
    assert torch.equal(plain(x[:2], cont[:2])["y"], parts[0])
    # A gap in `cont` begins anew, whatever was before.
    assert torch.equal(plain(x[:2], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))["y"], parts[0])


def test_dummy_data_follows_the_dtype():
    own = net(
        'layer { name: "d" type: "DummyData" top: "d" '
        "dummy_data_param { num: 2 channels: 32 height: 1 width: 3 "
        'data_filler { type: "gaussian" } } } layer { name: "y" type: "ReLU" bottom: "d" top: "y" }'
    ).double()
    assert own()["y"].dtype == torch.float64
    assert not torch.equal(own()["y"], own()["y"])
    given = normal(2, 32, 1, 3)
    assert torch.equal(own({"d": given})["y"], given.relu())


LOSSES = [
    ("SoftmaxWithLoss", "", (4, 5), "labels"),
    ("SoftmaxWithLoss", "loss_param { ignore_label: 1 normalization: FULL }", (4, 5), "labels"),
    ("InfogainLoss", "", (4, 5), "matrix"),
    ("SigmoidCrossEntropyLoss", "loss_param { ignore_label: 1 normalization: VALID }", (4, 5), "binary"),
    ("EuclideanLoss", "", (4, 5), "same"),
    ("HingeLoss", "hinge_loss_param { norm: L2 }", (4, 5), "labels"),
]


@pytest.mark.parametrize(("kind", "params", "shape", "second"), LOSSES)
def test_gradients_of_losses(kind, params, shape, second):
    scores = normal(*shape).double().requires_grad_()
    labels = torch.tensor([0.0, 1.0, 4.0, 2.0]).double()
    others = {
        "labels": [labels],
        "matrix": [labels, normal(1, 1, shape[1], shape[1], seed=2).double().abs()],
        "binary": [(normal(*shape, seed=1) > 0).double()],
        "same": [normal(*shape, seed=1).double()],
    }[second]
    own = net(layer_text(kind, shape, params, 1 + len(others))).double()
    assert torch.autograd.gradcheck(lambda x: own(x, *others)["y0"], (scores,))


def test_equal_features_of_a_contrastive_pair_have_a_finite_gradient():
    a = torch.ones(2, 3, requires_grad=True)
    loss = run("ContrastiveLoss", a, torch.ones(2, 3), torch.zeros(2))
    loss.backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("across", ["true", "false"])
def test_mvns_gradient_takes_deviation_and_eps_as_one_number(across):
    """Caffe's backward pass value by value, with an eps at which the true derivative is another."""
    x, given = normal(2, 3, 4, 5).double().requires_grad_(), normal(2, 3, 4, 5, seed=1).double()
    params, lead = f"mvn_param {{ eps: 0.5 across_channels: {across} }}", 1 if across == "true" else 2
    run("MVN", x, params=params).backward(given)
    rows, slopes = (one.detach().numpy().reshape(2 if lead == 1 else 6, -1) for one in (x, given))
    wanted = np.empty_like(rows)
    for i, (row, slope) in enumerate(zip(rows, slopes, strict=True)):
        y = (row - row.mean()) / (row.std() + 0.5)
        total = y * (slope * y).sum() + slope.sum()  # top_data * sum(top_diff * top_data) + sum(top_diff)
        wanted[i] = (slope - total / len(row)) / (row.std() + 0.5)
    np.testing.assert_allclose(x.grad.numpy().reshape(wanted.shape), wanted, atol=1e-12)


def test_soft_targets_are_cut_before_they_are_compared_with_the_ignored_label():
    scores, targets = normal(1, 4), torch.tensor([[0.0, 0.7, 1.0, 1.9]])
    zeros = run("SigmoidCrossEntropyLoss", scores, targets, params="loss_param { ignore_label: 0 }")
    ones = run("SigmoidCrossEntropyLoss", scores, targets, params="loss_param { ignore_label: 1 }")
    terms = torch.nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")[0]
    assert torch.allclose(zeros, terms[2:].sum())
    assert torch.allclose(ones, terms[:2].sum())


def test_ignored_batches_give_no_loss():
    scores = normal(3, 4).requires_grad_()
    loss = run("SoftmaxWithLoss", scores, torch.full((3,), 255.0), params="loss_param { ignore_label: 255 }")
    loss.backward()
    assert float(loss.detach()) == 0
    assert not scores.grad.any()


def test_the_gradient_of_a_tie_goes_one_way():
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    run("Eltwise", a, b, params="eltwise_param { operation: MAX }").sum().backward()
    assert a.grad.tolist() == [0.0, 0.0]
    assert b.grad.tolist() == [1.0, 1.0]


def test_offsets_of_zero_are_the_priors():
    priors = np.array([[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0]])
    for code in ("CORNER", "CENTER_SIZE", "CORNER_SIZE"):
        assert np.allclose(decode(np.zeros((2, 4)), priors, np.full((2, 4), 0.1), code), priors)


def detections(boxes, scores, params) -> list[list[float]]:
    """Rows of DetectionOutput for boxes (n, 4) as priors without offsets, with scores (n,) of one class."""
    n = len(boxes)
    text = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}'
        for name, shape in (
            ("loc", f"dim: 1 dim: {4 * n}"),
            ("conf", f"dim: 1 dim: {2 * n}"),
            ("prior", f"dim: 1 dim: 2 dim: {4 * n}"),
        )
    )
    text += f"""layer {{ name: "y" type: "DetectionOutput"
        bottom: "loc" bottom: "conf" bottom: "prior" top: "y"
        detection_output_param {{ num_classes: 2 {params} }} }}"""
    conf = np.stack((1 - np.array(scores), scores), 1).reshape(1, -1).astype(np.float32)
    prior = np.stack((np.array(boxes).ravel(), np.full(4 * n, 0.1)))[None].astype(np.float32)
    result = net(text)(torch.zeros(1, 4 * n), torch.from_numpy(conf), torch.from_numpy(prior))
    return result["y"][0, 0].tolist()


#: Along a line, each overlaps the next by 0.8 of its length: intersection over union 2/3.
LINE = [[0.2 * i, 0.0, 0.2 * i + 1.0, 1.0] for i in range(4)]


@pytest.mark.parametrize(
    ("nms", "kept"),
    [
        ("nms_threshold: 0.6", [0, 2]),
        ("nms_threshold: 0.7", [0, 1, 2, 3]),
        ("nms_threshold: 0.7 top_k: 2", [0, 1]),
        ("nms_threshold: 0.3", [0, 3]),
        # After the first box 0.7 * 0.9 = 0.63 < 2/3 holds, and then 0.567.
        ("nms_threshold: 0.7 eta: 0.9", [0, 2]),
    ],
)
def test_suppression(nms, kept):
    rows = detections(LINE, [0.9, 0.8, 0.7, 0.6], f"nms_param {{ {nms} }} confidence_threshold: 0.1")
    assert [round(row[3] / 0.2) for row in rows] == kept


def test_nothing_found_is_one_row():
    rows = detections(LINE, [0.0] * 4, "nms_param { nms_threshold: 0.5 } confidence_threshold: 0.1")
    assert rows == [[0.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]]


def test_double_nets_are_doubles_throughout():
    own: CaffeNet = net(layer_text("InnerProduct", (2, 3), "inner_product_param { num_output: 2 }")).double()
    assert own(torch.ones(2, 3, dtype=torch.float64))["y0"].dtype == torch.float64
    with pytest.raises(ModelError, match="layer 'y' .* cannot run"):  # noqa: RUF043
        own(torch.ones(2, 3))


def test_a_score_must_be_above_the_threshold():
    rows = detections(LINE[::3], [0.5, 0.5009765625], "confidence_threshold: 0.5")
    assert [row[2] for row in rows] == [0.5009765625]
