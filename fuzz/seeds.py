"""Make the first seeds of the corpus: `python -m fuzz.seeds`. Findings are added by hand."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import h5py
import lmdb
import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

import twofold
from twofold.calibration.store import SavedStatistics, save_statistics
from twofold.conv import LayerStatistics
from twofold.finetune.data import Datum
from twofold.finetune.snapshot import Snapshot
from twofold.finetune.storage import STORAGES
from twofold.formats.caffe.caffemodel import NewLayer, create_weights
from twofold.report import files_of

from .readers import CORPUS

NET = """name: "seed"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 1 group: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "two" type: "Convolution" bottom: "pool" top: "two"
  convolution_param { num_output: 8 kernel_h: 3 kernel_w: 1 bias_term: false } }
layer { name: "flat" type: "Flatten" bottom: "two" top: "flat" flatten_param { axis: 1 } }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" softmax_param { axis: 1 } }
"""
OLD = """input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
  blobs_lr: 1 convolution_param { num_output: 8 kernel_size: 3 } }
layers { name: "cat" type: CONCAT bottom: "conv" bottom: "conv" top: "cat" concat_param { concat_dim: 1 } }
layers { name: "slice" type: SLICE bottom: "cat" top: "a" top: "b" slice_param { slice_point: 4 } }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "multistep" gamma: 0.1 stepvalue: 10 stepvalue: 20
max_iter: 30 momentum: 0.9 weight_decay: 0.0005 regularization_type: "L2" clip_gradients: 10
iter_size: 2 average_loss: 5
snapshot: 10 snapshot_prefix: "snap/x" snapshot_format: BINARYPROTO display: 5 test_iter: 2 test_interval: 5
type: "SGD" random_seed: 1
"""


def _put(name: str, content: bytes | str) -> Path:
    path = CORPUS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _blobs(rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "conv": [draw(8, 3, 3, 3), draw(8)], "bn": [draw(8), abs(draw(8)), np.ones(1, np.float32)],
        "two": [draw(8, 8, 3, 1)], "fc": [draw(4, 64), draw(4)],
    }  # fmt: skip


def _caffe(rng: np.random.Generator) -> list[Path]:
    definition = _put("prototxt/net.prototxt", NET)
    _put("prototxt/old.prototxt", OLD)
    kinds = {"conv": "Convolution", "bn": "BatchNorm", "two": "Convolution", "fc": "InnerProduct"}
    layers = [NewLayer(name, kinds[name], blobs) for name, blobs in _blobs(rng).items()]
    weights = CORPUS / "caffemodel" / "net.caffemodel"
    weights.parent.mkdir(parents=True, exist_ok=True)
    with weights.open("wb") as stream:
        create_weights(layers).write(stream)
    for kind, storage in STORAGES.items():
        state = Snapshot(
            7, "net.caffemodel", tuple(b for blobs in _blobs(rng).values() for b in blobs)[:3], 1
        )
        path = CORPUS / "solverstate" / f"net{storage.state}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+b") as stream:
            storage.write_state(state)(stream)
        if kind == "HDF5":
            path = CORPUS / "hdf5" / "net.caffemodel.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w+b") as stream:
                storage.write_weights(layers, "seed")(stream)
    _put("solver/solver.prototxt", SOLVER)
    return [definition, weights]


def _made_by_twofold(files: list[Path], rng: np.random.Generator) -> None:
    result = twofold.decompose(twofold.load(*files), macs=0.8, no_data=True, multiple=2)
    with tempfile.TemporaryDirectory() as name:
        result.save(name, extra=files_of(result))
        _put("plan/plan.json", (Path(name) / "plan.json").read_bytes())
        _put("report/report.json", (Path(name) / "report.json").read_bytes())
    square = np.eye(3) * 2
    seen = LayerStatistics(9, rng.standard_normal(3), square, (np.eye(3),), square)
    path = CORPUS / "statistics" / "small.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_statistics(path, SavedStatistics({"conv": seen}, {"inputs": {"sha256": "x"}, "sources": {}}))
    known = CORPUS / "known" / "net.npz"
    known.parent.mkdir(parents=True, exist_ok=True)
    known.unlink(missing_ok=True)
    data = CORPUS / "npy" / "data.npy"
    twofold.decompose(twofold.load(*files), macs=0.8, multiple=2, data=data, statistics=known)
    setting = {"runtime": "onnxruntime", "version": "1.20", "device": "cpu", "threads": 1}
    times = {"1x8x8: conv 3->8": {"median": 1e-4, "low": 9e-5, "high": 2e-4, "rounds": 9}}
    _put("latency/table.json", json.dumps({"twofold_latency": 1, "setting": setting, "times": times}))
    _put(
        "times/times.csv",
        "# device: npu\n# block: 16\nmodel,what,milliseconds\nnetwork.onnx,network,3.5\nstack1.onnx,k,0.5\n",
    )
    token = "0" * 16
    renames = [[f".twofold-{token}-new0.txt", "target.txt"]]
    _put(
        "journal/journal.json",
        json.dumps({"decided_by": f".twofold-{token}-journal", "needed_by": [], "renames": renames}),
    )


def _onnx(rng: np.random.Generator) -> None:
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)),
        "b": rng.standard_normal(8),
        "f": rng.standard_normal((512, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["data", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[1, 1], group=1),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["l"], axis=1),
        helper.make_node("MatMul", ["l", "f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "seed",
        [helper.make_tensor_value_info("data", 1, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", 1, (1, 4))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    _put("onnx/net.onnx", model.SerializeToString(deterministic=True))


def _data(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (12, 10, 3), np.uint8)
    for name, image in {"colour.png": pixels, "gray.png": pixels[:, :, 0]}.items():
        path = CORPUS / "image" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    for suffix in ("jpg", "gif", "bmp", "tiff", "webp"):
        Image.fromarray(pixels).save(CORPUS / "image" / f"colour.{suffix}")
    _put("imagelist/list.txt", "gray.png 0\ngray.png 3\n")
    values = rng.random((3, 3, 8, 8), np.float32)
    for name in ("npy", "npz"):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
    np.save(CORPUS / "npy" / "data.npy", values)
    np.savez(CORPUS / "npz" / "data.npz", data=values)
    np.savez_compressed(CORPUS / "npz" / "packed.npz", data=values)
    blob = b"\x08\x01\x10\x03\x18\x01\x20\x01\x2a\x0c" + np.arange(3, dtype="<f4").tobytes()
    _put("mean/mean.binaryproto", blob)
    with tempfile.TemporaryDirectory() as name:
        with lmdb.open(name, map_size=1 << 20) as database, database.begin(write=True) as transaction:
            for key in range(4):
                transaction.put(b"%08d" % key, Datum.of(pixels[:6, :6].transpose(2, 0, 1), key).serialize())
        _put("lmdb/data.mdb", (Path(name) / "data.mdb").read_bytes().rstrip(b"\0") + bytes(16))
        whole = (Path(name) / "data.mdb").read_bytes()
        _put("lmdb/data.mdb", whole[: -(-len(whole.rstrip(b"\0")) // 4096) * 4096])
    (CORPUS / "hdf5data").mkdir(parents=True, exist_ok=True)
    with h5py.File(CORPUS / "hdf5data" / "data.h5", "w", track_order=False) as file:
        file["data"] = values
        file["label"] = np.arange(3, dtype=np.float32)


def main() -> None:
    """Write the seeds."""
    rng = np.random.default_rng(0)
    files = _caffe(rng)
    _data(rng)
    _made_by_twofold(files, rng)
    _onnx(rng)


if __name__ == "__main__":
    main()
