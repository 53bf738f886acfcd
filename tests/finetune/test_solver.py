"""Options, rates, rejections, and the parts of a training that the recordings do not reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.caffe_torch.nets import net

from twofold.errors import FormatError, InputError, OptionError
from twofold.finetune import RULES, Schedule, Solver, SolverDefinition, read_solver, read_state
from twofold.formats.caffe.caffemodel import read_weights

TINY = """
name: "tiny"
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "label" type: "Input" top: "t" input_param { shape { dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss" }
"""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def solver(text: str = TINY, **options) -> Solver:
    return Solver(net(text, "TRAIN"), SolverDefinition(**{"base_lr": 0.1, "lr_policy": "fixed", **options}))


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    return {"x": values, "t": (values[:, 0] > 0).float()}


def values(of: Solver) -> list[torch.Tensor]:
    return [one.tensor.detach().clone() for one in of.net.learnables()]


def written(folder, text: str):
    path = folder / "solver.prototxt"
    path.write_text(text)
    return path


def test_defaults_are_those_of_caffe(tmp_path):
    got = read_solver(written(tmp_path, 'base_lr: 1 lr_policy: "fixed"'))
    assert got == SolverDefinition(base_lr=1.0, lr_policy="fixed")
    assert (got.delta, got.momentum2, got.rms_decay, got.clip_gradients) == (1e-8, 0.999, 0.99, -1)


def test_repeated_values_and_the_older_type(tmp_path):
    text = 'train_net: "a" stepvalue: [3, 5] stepvalue: 9 solver_type: NESTEROV test_iter: 7'
    got = read_solver(written(tmp_path, text))
    assert (got.type, got.stepvalue, got.test_iter) == ("Nesterov", (3, 5, 9), (7,))
    assert (got.train_net, got.net, got.test_net) == ("a", "", ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("iter_size: 0", "iter_size is 0; it must be at least 1"),
        ('regularization_type: "L3"', "regularization_type is 'L3'; Caffe knows L1 and L2"),
        ("average_loss: 0", "average_loss is 0; it must be at least 1"),
        ("snapshot_diff: true", "gradients in snapshots, which are not written; remove it"),
        ('type: "SGD" solver_type: ADAM', "both type and the older solver_type"),
    ],
)
def test_a_definition_that_is_refused(tmp_path, text, says):
    with pytest.raises(OptionError, match=says):
        read_solver(written(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": "Adamax"}, "no solver type 'Adamax'.*known: SGD, Nesterov"),
        ({"type": "RMSProp", "momentum": 0.9}, "momentum cannot be used with RMSProp"),
        ({"lr_policy": "cosine"}, "no lr_policy 'cosine'; known: fixed, step"),
        ({"lr_policy": "step"}, "needs a positive stepsize"),
        ({"lr_policy": "poly"}, "needs a positive max_iter"),
    ],
)
def test_a_solver_that_is_refused(options, says):
    with pytest.raises(OptionError, match=says):
        solver(**options)


def test_a_missing_solver_is_named(tmp_path):
    with pytest.raises(FormatError, match=r"nothing\.prototxt: cannot read the solver"):
        read_solver(tmp_path / "nothing.prototxt")


def rates(policy: str, iterations: range, **options) -> list[float]:
    schedule = Schedule(SolverDefinition(base_lr=2, lr_policy=policy, **options))
    return [schedule.rate(i) for i in iterations]


def test_multistep_takes_one_step_per_iteration():
    assert rates("multistep", range(6), gamma=0.5, stepvalue=(2, 2, 3)) == [2, 2, 1, 0.5, 0.25, 0.25]
    # Begun behind all its values, it catches up one step at a time.
    assert rates("multistep", range(10, 14), gamma=0.5, stepvalue=(2, 4, 6)) == [1, 0.5, 0.25, 0.25]


def test_sigmoid_rises_and_poly_ends_at_zero():
    rising = rates("sigmoid", range(9), gamma=1.0, stepsize=4)
    assert rising == sorted(rising)
    assert rising[4] == 1
    assert rates("poly", range(5), power=1.0, max_iter=4) == [2, 1.5, 1, 0.5, 0]


@pytest.mark.parametrize("kind", RULES)
def test_every_rule_learns(kind):
    options = {"AdaDelta": {"base_lr": 1, "momentum": 0.9, "delta": 1e-3}, "Adam": {"momentum": 0.9}}
    learning = solver(type=kind, **options.get(kind, {}))
    losses = [learning.step([batch(i % 3)]).loss for i in range(60)]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_a_frozen_parameter_keeps_its_value():
    text = TINY.replace('top: "ip"\n', 'top: "ip" param { lr_mult: 0 }\n', 1)
    learning = solver(text, weight_decay=0.1, type="Adam", momentum=0.9)
    weight, bias = values(learning)
    learning.step([batch()])
    assert torch.equal(values(learning)[0], weight)
    assert not torch.equal(values(learning)[1], bias)


def test_clipping_scales_all_gradients_alike():
    steps = []
    for limit in (-1.0, 0.01):
        learning = solver(clip_gradients=limit)
        before = values(learning)
        learning.step([batch()])
        steps.append(torch.cat([(b - a).flatten() for a, b in zip(values(learning), before, strict=True)]))
    assert float(steps[1].norm()) == pytest.approx(0.1 * 0.01, rel=1e-4)
    # Steps of 1e-3 are differences of float32 weights near 1: rounding is 6e-5 of them.
    torch.testing.assert_close(steps[1] / steps[1].norm(), steps[0] / steps[0].norm(), rtol=0, atol=3e-4)


def test_the_sum_over_passes_is_clipped_and_then_averaged():
    learning = solver(clip_gradients=0.01, iter_size=2)
    before = values(learning)
    learning.step([batch(), batch(1)])
    step = torch.cat([(b - a).flatten() for a, b in zip(values(learning), before, strict=True)])
    assert float(step.norm()) == pytest.approx(0.1 * 0.01 / 2, rel=1e-3)


def test_two_halves_of_a_batch_are_the_batch():
    whole, halves = solver(momentum=0.9), solver(momentum=0.9, iter_size=2)
    for i in range(3):
        x = batch(i)
        whole.step([x])
        halves.step([{name: value[:2] for name, value in x.items()}, {n: v[2:] for n, v in x.items()}])
    for one, other in zip(values(whole), values(halves), strict=True):
        torch.testing.assert_close(one, other)


def test_the_number_of_batches_is_iter_size():
    with pytest.raises(InputError, match="1 batches given for an iter_size of 2"):
        solver(iter_size=2).step([batch()])


def test_a_shared_parameter_is_stored_with_each_layer(tmp_path):
    text = TINY.replace('top: "ip"\n', 'top: "ip" param { name: "w" }\n') + (
        'layer { name: "ip2" type: "InnerProduct" bottom: "x" top: "ip2" param { name: "w" } '
        "inner_product_param { num_output: 2 } }"
    )
    learning = solver(text)
    learning.step([batch()])
    file = read_weights(learning.snapshot(tmp_path / "s")[0])
    one, other = (file.layer(name) for name in ("ip", "ip2"))
    assert one is not None
    assert other is not None
    assert np.array_equal(one.blobs[0].array(), other.blobs[0].array())


def test_a_snapshot_that_has_moved(tmp_path):
    learning = solver(momentum=0.9)
    learning.step([batch()])
    _, state = learning.snapshot(tmp_path / "old" / "s")
    (tmp_path / "old").rename(tmp_path / "new")
    other = solver(momentum=0.9)
    other.restore(tmp_path / "new" / state.name)
    assert other.iteration == 1
    assert all(torch.equal(a, b) for a, b in zip(values(learning), values(other), strict=True))
    (tmp_path / "new" / "s_iter_1.caffemodel").unlink()
    with pytest.raises(FormatError, match="neither there nor beside it; put them at"):
        other.restore(tmp_path / "new" / state.name)


def test_a_state_of_another_solver_is_refused(tmp_path):
    _, state = solver().snapshot(tmp_path / "s")
    with pytest.raises(
        FormatError, match=r"2 blobs, \[2, 3\], \[2\], the net and solver need 4.*another net"
    ):
        solver(type="Adam").restore(state)


@pytest.mark.parametrize("length", [0, 3, 60])
def test_a_damaged_state_is_refused(tmp_path, length):
    weights, state = solver().snapshot(tmp_path / "s")
    short = tmp_path / "short.solverstate"
    short.write_bytes(state.read_bytes()[:length])
    with pytest.raises(FormatError, match=r"short\.solverstate"):
        solver().restore(short)
    with pytest.raises(FormatError, match=r"cannot read the solver state"):
        read_state(tmp_path / "none")
    with pytest.raises(FormatError, match="is it a caffemodel"):
        read_state(weights)
