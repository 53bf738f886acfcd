"""One network in three formats gives one plan, and one error of the outputs."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from benchmarks.formats import outcomes

pytestmark = pytest.mark.models


def test_hed_in_three_formats_is_one_network(tmp_path):
    """On its first two blocks, which are quick to factor, and crops that are quick to run."""
    found = outcomes(
        tmp_path, side=48, macs=0.85, only="*conv[12]_*", multiple=8, schemes=("spatial", "channel")
    )
    assert set(found) == {"Caffe", "ONNX", "PyTorch"}
    caffe = found["Caffe"]
    assert len(caffe.ranks) == 3
    assert caffe.measured == pytest.approx(caffe.predicted, rel=0.5)
    for one in found.values():
        assert one.ranks == caffe.ranks
        assert one.predicted == pytest.approx(caffe.predicted, rel=0.01)
        assert one.measured == pytest.approx(caffe.measured, rel=0.01)
        assert one.error == pytest.approx(caffe.error, rel=0.01)
