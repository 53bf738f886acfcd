"""The notebooks in `examples`: they run as they stand, and hold no outputs."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tests.docs.world import link_fashion

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def test_there_is_one_for_each_framework():
    assert [path.stem for path in NOTEBOOKS] == ["onnx", "pytorch"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_no_outputs(path):
    """What is shown is what the reader's own machine gives."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    """Cell by cell, in this process: a kernel would import and fit everything anew; warnings are errors."""
    link_fashion(tmp_path / "fashion")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    shown = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type != "code":
            continue
        body = ast.parse(cell.source, path.name).body
        value = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), path.name, "exec"), names)
        if isinstance(value, ast.Expr):
            shown.append(eval(compile(ast.Expression(value.value), path.name, "eval"), names))
    tables = [one._repr_html_() for one in shown if hasattr(one, "_repr_html_")]
    assert any("MACs" in table for table in tables)  # a result is a table, not the text of an object


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_kernel_shows_the_table_and_nothing_else():
    text = """import twofold
model = twofold.load("fashion/vgg_deploy.prototxt", "fashion/vgg.caffemodel")
twofold.decompose(model, macs=0.5, schemes="spatial", no_data=True)"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text)])
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    (cell,) = notebook.cells
    *others, shown = cell.outputs
    assert "MACs" in shown["data"]["text/html"]
    assert not others
