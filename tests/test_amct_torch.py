"""The reference's calls for PyTorch, as its documents describe them."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from twofold.amct.torch import auto_decomposition, decompose_network  # noqa: E402
from twofold.errors import PlanError  # noqa: E402

COMPAT = Path(__file__).parents[1] / "compat" / "src"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3)
        self.conv2 = nn.Conv2d(64, 128, 3, bias=False)
        self.conv3 = nn.Conv2d(128, 128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3(self.conv2(self.conv1(x)))


def low_rank() -> Net:
    """A net whose larger layers have a rank that the reference keeps, so that nothing is lost."""
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for conv in (net.conv2, net.conv3):
            first = torch.randn(16, conv.in_channels, 3, 1) / 10
            second = torch.randn(conv.out_channels, 16, 1, 3) / 10
            conv.weight.copy_(torch.einsum("orxb,riay->oiab", second, first))
    return net


def test_the_module_itself_is_changed_and_computes_the_same(tmp_path):
    net, x = low_rank(), torch.randn(1, 3, 12, 12)
    wanted = net(x).detach()
    model, changes = auto_decomposition(net, decompose_info_path=str(tmp_path / "info.json"))
    assert model is net
    assert changes == {"conv2": ["conv2.0", "conv2.1"], "conv3": ["conv3.0", "conv3.1"]}
    for names in changes.values():
        assert [type(model.get_submodule(name)) for name in names] == [nn.Conv2d] * 2
    assert [conv.bias is None for conv in (*net.conv2, *net.conv3)] == [True, True, True, False]
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    # No more is spent than the reference does: rank 64 of 128 channels, 32 of 64.
    assert net.conv3[0].out_channels <= 64


def test_the_structure_is_rebuilt_for_saved_weights(tmp_path):
    net, x = low_rank(), torch.randn(1, 3, 12, 12)
    model, changes = auto_decomposition(net, tmp_path / "sub" / "info.json")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    again, same = decompose_network(Net(), tmp_path / "sub" / "info.json")
    assert same == changes
    assert all(p.abs().max() > 0 for p in again.parameters())  # drawn, as nn.Conv2d does
    again.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert torch.equal(again(x), model(x))
    with pytest.raises(PlanError, match="does not fit this model"):
        decompose_network(nn.Sequential(nn.Conv2d(3, 3, 3)), tmp_path / "sub" / "info.json")


def test_a_module_that_is_nothing_but_a_convolution_stays():
    conv = low_rank().conv3
    model, changes = auto_decomposition(conv)
    assert type(conv) is nn.Conv2d
    assert type(model) is nn.Sequential
    assert list(changes.values()) == [["0", "1"]]


def test_nothing_to_decompose():
    net = nn.Sequential(nn.Conv2d(3, 8, 1))
    assert auto_decomposition(net) == (net, {})


def test_the_signatures_are_the_references():
    assert list(inspect.signature(auto_decomposition).parameters) == ["model", "decompose_info_path"]
    assert inspect.signature(auto_decomposition).parameters["decompose_info_path"].default is None
    assert list(inspect.signature(decompose_network).parameters) == ["model", "decompose_info_path"]


def test_a_script_for_the_reference_runs_unchanged(tmp_path, monkeypatch, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from torch import nn\n"
        "import amct_pytorch\n"
        "from amct_pytorch.tensor_decompose import auto_decomposition, decompose_network\n"
        "net = nn.Sequential(nn.Conv2d(64, 64, 3))\n"
        "net, changes = auto_decomposition(model=net, decompose_info_path='info.json')\n"
        "torch.save(net.state_dict(), 'weights.pth')\n"
        "new = nn.Sequential(nn.Conv2d(64, 64, 3))\n"
        "new, same = decompose_network(model=new, decompose_info_path='info.json')\n"
        "new.load_state_dict(torch.load('weights.pth'))\n"
        "assert changes == same == {'0': ['0.0', '0.1']}, changes\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(COMPAT)
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().err == ""
