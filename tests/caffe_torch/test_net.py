"""Running a net in parts, exchanging layers, names, sharing, and what goes wrong."""

from __future__ import annotations

import copy
import pickle
import weakref

import numpy as np
import pytest
import torch
from tests.caffe_torch.nets import BRANCHES, definition, inputs, layer_text, net
from torch import nn

from twofold.caffe_torch import CaffeNet, batch_statistics
from twofold.errors import InputError, ModelError


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def branches() -> CaffeNet:
    return net(BRANCHES)


@pytest.fixture
def data(branches) -> dict[str, torch.Tensor]:
    return inputs(branches, 2, 3, 8, 6)


def test_inputs_outputs_and_layers(branches):
    assert branches.inputs == ("data",)
    assert branches.outputs == ("pool", "side")
    assert [spec.name for spec in branches.definition.layers][branches.layer_index("relu")] == "relu"
    assert branches.layers["right/1x1"] is branches.layers[5]
    assert branches.unfilled == ("conv", "bn", "right/1x1")
    with pytest.raises(ModelError, match="no layer 'nix'"):
        branches.layer_index("nix")


def test_a_single_tensor_a_mapping_and_keywords_are_one_input(branches, data):
    by_mapping = branches(data)
    for other in (branches(data["data"]), branches(data=data["data"])):
        assert other.keys() == by_mapping.keys()
        assert all(torch.equal(other[name], by_mapping[name]) for name in other)


@pytest.mark.parametrize("cut", range(9))
def test_a_run_in_two_parts_is_the_run(branches, data, cut):
    whole = branches(data)
    first = branches.execute(data, 0, cut)
    kept = {name: value.clone() for name, value in first.items()}
    second = branches.execute(first, cut)
    assert second.keys() == whole.keys()
    assert all(torch.equal(second[name], whole[name]) for name in whole)
    assert all(torch.equal(first[name], kept[name]) for name in first), "a blob of the caller was changed"


def test_only_layers_that_are_needed_run(branches, data):
    def ran(**keep):
        return [step.spec.name for step in branches.walk(data, **keep)]

    assert ran(keep=["before"]) == ["conv", "before"]
    assert ran(keep=["side"]) == ["conv", "bn", "relu", "side"]
    assert ran(stop=3, keep=["conv"]) == ["conv"]
    assert len(ran()) == 8


def test_blobs_are_freed_when_nobody_reads_them_any_more(branches, data):
    alive = weakref.WeakValueDictionary()
    at = {}
    branches.requires_grad_(False)  # or autograd holds on to them
    for step in branches.walk(data):
        name = step.spec.name
        alive[name] = step.tops[0]
        del step
        at[name] = set(alive)
    # In the walk's hands are still the tops and bottoms of the step itself.
    assert at["conv"] == {"conv"}
    assert at["before"] == {"conv", "before"}
    assert at["bn"] == {"conv", "before", "bn"}
    assert at["relu"] == {"before", "bn", "relu"}
    assert at["right/1x1"] == {"before", "relu", "right/1x1"}
    assert at["sum"] == {"before", "relu", "right/1x1", "sum"}
    assert at["v1.pool"] == {"relu", "sum", "v1.pool"}
    assert at["side"] == {"relu", "v1.pool", "side"}


def test_each_layer_sees_its_input_before_changes_in_place(branches, data):
    seen = {step.spec.name: step for step in branches.walk(data)}
    conv = nn.functional.conv2d(
        data["data"], branches.layers["conv"].weight, branches.layers["conv"].bias, padding=1
    )
    assert torch.allclose(seen["before"].bottoms[0], conv, atol=1e-6)
    assert torch.equal(seen["bn"].bottoms[0], seen["before"].bottoms[0])
    assert torch.equal(seen["relu"].tops[0], seen["relu"].bottoms[0].relu())
    assert torch.equal(seen["side"].bottoms[0], seen["relu"].tops[0])


def test_what_a_walk_puts_among_the_blobs_is_read_from_then_on(branches, data):
    for step in branches.walk(data):
        if step.spec.name == "conv":
            step.blobs["conv"] = torch.zeros_like(step.tops[0])
        if step.spec.name == "before":
            assert not step.tops[0].any()


def test_an_intermediate_blob_can_be_kept(branches, data):
    kept = branches(data, blobs=["right.1x1", "data"])
    assert set(kept) == {"right.1x1", "data"}
    assert kept["data"] is data["data"]


def test_any_input_size(branches):
    for size in ((1, 3, 5, 9), (4, 3, 16, 16)):
        result = branches(inputs(branches, *size))
        assert result["pool"].shape == (size[0], 4, 1, 1)
        assert result["side"].shape == (size[0], 4, *size[2:])


def test_a_layer_can_be_exchanged_for_a_while(branches, data):
    conv = branches.layers["right/1x1"]
    stack = nn.Sequential(nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 4, 1))
    before = branches(data)["pool"]
    with branches.swapped({"right/1x1": stack}) as swapped:
        inside = swapped(data)["pool"]
        assert branches.layers["right/1x1"] is stack
    assert branches.layers["right/1x1"] is conv
    assert not torch.allclose(inside, before)
    assert torch.equal(branches(data)["pool"], before)
    with pytest.raises(ZeroDivisionError), branches.swapped({"conv": stack, "right/1x1": stack}):
        1 / 0  # noqa: B018
    assert branches.layers["right/1x1"] is conv
    with pytest.raises(ModelError, match="no layer 'nix'"), branches.swapped({"conv": stack, "nix": stack}):
        pass
    assert branches.layers["conv"] is not stack


def test_an_equal_stack_gives_equal_outputs(branches, data):
    conv = branches.layers["right/1x1"]
    same = nn.Conv2d(4, 4, 1)
    same.load_state_dict(conv.state_dict())
    before = branches(data)["pool"]
    assert branches.replace("right/1x1", same) is conv
    assert torch.allclose(branches(data)["pool"], before, atol=1e-6)


def test_state_dict_round_trip_with_any_name(data):
    names = ["conv", "a.b/c", "", "forward", "%", "order", "training", "a%2Eb/c"]
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }
    """
    for name in names:
        text += f"""layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "top:{name}"
            convolution_param {{ num_output: 2 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}"""
    one, other = net(text, seed=1), net(text, seed=2)
    assert [one.layers[name].spec.name for name in names] == names
    assert len(one.state_dict()) == 2 * len(names)
    assert not torch.equal(one.layers["a.b/c"].weight, other.layers["a.b/c"].weight)
    other.load_state_dict(one.state_dict())
    for name in names:
        assert torch.equal(one.layers[name].weight, other.layers[name].weight)


def test_the_first_of_two_layers_with_one_name_has_the_weights():
    text = layer_text("InnerProduct", (1, 2), "inner_product_param { num_output: 2 bias_term: false }")
    text += 'layer { name: "y" type: "InnerProduct" bottom: "y0" top: "z"' + (
        " inner_product_param { num_output: 2 bias_term: false weight_filler { value: 3 } } }"
    )
    built = CaffeNet(definition(text), {"y": [np.eye(2, dtype=np.float32)]})
    assert torch.equal(built.layers["y"].weight, torch.eye(2))
    assert len(built.state_dict()) == 2


def test_copies_and_pickles_give_the_same_numbers(branches, data):
    want = branches(data)
    for other in (copy.deepcopy(branches), pickle.loads(pickle.dumps(branches))):
        got = other(data)
        assert all(torch.equal(got[name], want[name]) for name in want)


def test_seeds_decide_the_fillers():
    weights = [net(BRANCHES, seed=seed).layers["conv"].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


SHARED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a"
  param { name: "w" } param { name: "b" decay_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
  param { name: "w" lr_mult: 3 } param { lr_mult: 2 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def test_a_shared_parameter_is_one(data):
    shared = net(SHARED)
    assert shared.layers["a"].weight is shared.layers["b"].weight
    assert len(list(shared.parameters())) == 3
    found = [(one.layer, one.index, one.lr_mult, one.decay_mult, one.sharers) for one in shared.learnables()]
    assert found == [("a", 0, 3.0, 1.0, (("b", 0),)), ("a", 1, 1.0, 0.0, ()), ("b", 1, 2.0, 1.0, ())]
    arrays = shared.arrays()
    assert np.array_equal(arrays["a"][0], arrays["b"][0])
    copied = copy.deepcopy(shared)
    assert copied.layers["a"].weight is copied.layers["b"].weight


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_of_two_copies_of_a_shared_parameter_the_last_in_the_file_counts(order):
    arrays = {name: [np.full((3, 3), ord(name), np.float32), np.zeros(3, np.float32)] for name in order}
    shared = CaffeNet(definition(SHARED), arrays)
    assert float(shared.layers["a"].weight[0, 0].detach()) == ord(order[-1])


def test_shared_parameters_of_two_shapes_are_refused():
    with pytest.raises(ModelError, match=r"layer 'b'.*\[2, 3\].*'w'.*layer 'a'.*\[3, 3\]"):
        net(SHARED[::-1].replace("3 :tuptuo_mun", "2 :tuptuo_mun", 1)[::-1])


def test_weights_of_another_net_are_refused():
    good = [np.zeros((4, 3, 3, 3), np.float32), np.zeros(4, np.float32)]
    assert "conv" not in CaffeNet(definition(BRANCHES), {"conv": good}).unfilled
    with pytest.raises(ModelError, match=r"layer 'conv'.*blob 0.*\[4, 3, 5, 5\].*\[4, 3, 3, 3\]"):
        CaffeNet(definition(BRANCHES), {"conv": [np.zeros((4, 3, 5, 5), np.float32), good[1]]})
    with pytest.raises(ModelError, match=r"layer 'conv'.*hold 1 blobs, the definition needs 2"):
        CaffeNet(definition(BRANCHES), {"conv": good[:1]})


def test_leading_ones_of_old_files_are_allowed():
    text = layer_text("InnerProduct", (1, 2), "inner_product_param { num_output: 3 }")
    arrays = [np.ones((1, 1, 3, 2), np.float32), np.ones((1, 1, 1, 3), np.float32)]
    assert CaffeNet(definition(text), {"y": arrays}).layers["y"].weight.shape == (3, 2)


def test_the_beginning_of_a_net(branches, data):
    part = net(BRANCHES, until="relu")
    assert part.outputs == ("before", "conv")
    assert len(part.layers) == 5
    assert torch.equal(part(data)["conv"], branches(data, blobs=["conv"])["conv"])
    with pytest.raises(ModelError, match="no layer 'nix'"):
        net(BRANCHES, until="nix")


UNKNOWN = BRANCHES + 'layer { name: "odd" type: "Odd" bottom: "sum" top: "odd" }'


def test_an_unknown_layer_hurts_only_who_needs_it(branches, data):
    odd = net(UNKNOWN)
    assert torch.equal(odd(data, blobs=["pool"])["pool"], branches(data)["pool"])
    with pytest.raises(
        ModelError, match=r"(?s)layer 'odd' has the type 'Odd'.*known: .*Convolution.*register\('Odd'\)"
    ) as error:
        odd(data)
    assert "class Odd(Layer)" in str(error.value)


def test_a_data_layer_of_unknown_type_is_an_input():
    text = """
    layer { name: "mine" type: "MyData" top: "data" top: "label" }
    layer { name: "y" type: "ReLU" bottom: "data" top: "y" }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "label" top: "loss" }
    """
    own = net(text)
    assert own.inputs == ("data", "label")
    x = torch.tensor([[-1.0, 2.0]])
    assert torch.equal(own(x, blobs=["y"])["y"], x.relu())
    with pytest.raises(
        InputError, match=r"layer 'loss' \(EuclideanLoss\) reads blob 'label', an input that was not given"
    ):
        own(x)
    assert float(own(x, x)["loss"]) == 0.5


def test_inputs_that_do_not_fit_are_named(branches, data):
    with pytest.raises(InputError, match="no input 'image'; it has data"):
        branches(image=data["data"])
    with pytest.raises(InputError, match="2 inputs given; the net takes data"):
        branches(data["data"], data["data"])
    with pytest.raises(InputError, match=r"layer 'conv' .* reads blob 'data', an input that was not given"):
        branches()
    with pytest.raises(
        ModelError, match=r"layer 'conv' \(Convolution\) cannot run on inputs of shape \[2, 5, 8, 6\]"
    ):
        branches(torch.zeros(2, 5, 8, 6))
    with pytest.raises(ModelError, match="blob 'nix' is wanted behind layer 9 of 9"):
        branches(data, blobs=["nix"])
    with pytest.raises(ModelError, match=r"layer 'before' .* reads blob 'conv', which is not there"):
        branches.execute(data, 2)


def test_without_shapes_and_weights_a_layer_says_what_it_lacks():
    text = """
    input: "data"
    layer { name: "y" type: "InnerProduct" bottom: "data" top: "y" inner_product_param { num_output: 2 } }
    """
    with pytest.raises(ModelError, match=r"layer 'y' .* blob 0 follows from its input"):
        net(text)(torch.zeros(1, 3))
    assert net(text, shapes={"data": (1, 3)})(torch.zeros(1, 3))["y"].shape == (1, 2)
    arrays = {"y": [np.ones((2, 3), np.float32), np.zeros(2, np.float32)]}
    assert CaffeNet(definition(text), arrays)(torch.ones(1, 3))["y"].tolist() == [[3.0, 3.0]]


def test_batch_statistics_leave_no_trace(branches, data):
    stored = copy.deepcopy(branches.layers["bn"].state_dict())
    outside = branches(data)["side"]
    with batch_statistics(branches):
        steps = {step.spec.name: step.tops[0] for step in branches.walk(data)}
    variance, mean = torch.var_mean(steps["bn"], (0, 2, 3), correction=0)
    assert torch.allclose(mean, torch.zeros(4), atol=1e-6)
    assert torch.allclose(variance, torch.ones(4), atol=1e-3)
    assert all(torch.equal(stored[key], value) for key, value in branches.layers["bn"].state_dict().items())
    assert torch.equal(branches(data)["side"], outside)


def test_the_loss_is_the_weighted_sum(branches):
    text = """
    layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "a" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "a" loss_weight: 3 }
    layer { name: "b" type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "t" top: "b" }
    layer { name: "c" type: "Reduction" bottom: "x" top: "c" loss_weight: 0.5 }
    """
    loss, tops = net(text).loss(torch.ones(2, 3), torch.zeros(2, 3))
    assert float(loss) == pytest.approx(3 * float(tops["a"]) + float(tops["b"]) + 0.5 * float(tops["c"]))
    assert set(tops) == {"a", "b", "c"}
    with pytest.raises(ModelError, match="no loss layer"):
        branches.loss(torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("top", "rest"),
    [("", ""), ('top: "a"', 'layer { name: "s" type: "Silence" bottom: "a" }')],
    ids=["without a top", "silenced"],
)
def test_a_loss_that_is_no_output_counts(top, rest):
    text = """
    layer {{ name: "x" type: "Input" top: "x" top: "t" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
    layer {{ name: "a" type: "EuclideanLoss" bottom: "x" bottom: "t" {0} }}
    {1}
    """
    loss, tops = net(text.format(top, rest)).loss(torch.ones(2, 3), torch.zeros(2, 3))
    assert float(loss) == 1.5
    assert not tops


def test_no_gradient_passes_where_the_definition_stops_it():
    text = layer_text("Eltwise", (2,), "propagate_down: true propagate_down: false", bottoms=2)
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    net(text)(a, b)["y0"].sum().backward()
    assert a.grad is not None
    assert b.grad is None
