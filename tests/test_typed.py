"""What mypy checks in `tests/typed` also runs, and values print in a line."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.typed.user import halved  # noqa: E402

import twofold  # noqa: E402


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3))


def test_a_users_program_runs():
    module = net()
    made = halved(module, torch.randn(8, 3, 16, 16))
    assert len(list(made.modules())) > len(list(module.modules()))


def test_values_print_in_a_line():
    result = twofold.decompose(net(), macs=0.5, example_inputs=torch.randn(1, 3, 16, 16), no_data=True)
    assert repr(result.model) == "<TorchModel Sequential>"
    assert repr(result).startswith("<Result: 1 of 2 convolutions of <TorchModel Sequential> decomposed, 0.")
    assert repr(result.plan).startswith("<Plan: 1 of 2 convolutions decomposed, 0.")
    found = twofold.inspect(net(), example_inputs=torch.randn(1, 3, 16, 16))
    assert repr(found) == "<Inspection: 2 of 2 convolutions eligible>"
    compared = twofold.compare(net(), result, example_inputs=torch.randn(1, 3, 16, 16), runtimes=())
    assert repr(compared).startswith("<Comparison: output over 66 inputs, 0.")


def test_tables_show_themselves_in_notebooks():
    found = twofold.inspect(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1)))
    shown = found._repr_html_()
    assert shown.startswith("<pre")
    assert "3-&gt;8 1x1" in shown
    assert "->" not in shown


def test_overloads_have_every_option():
    from inspect import signature

    from twofold.decomposition.decompose import decompose
    from twofold.decomposition.keywords import Fields, Keywords

    plain = set(signature(decompose).parameters) - {"model", "fields"}
    assert set(Keywords.__annotations__) == plain | set(Fields.__annotations__)
