"""Running notebooks: what varies is kept, unless the code before it has changed."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import notebooks as tool


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A notebook whose every code cell prints how many have been run so far."""
    clock = itertools.count(1)

    class Client:
        def __init__(self, notebook, **_):
            self._cells = [c for c in notebook.cells if c.cell_type == "code"]

        def execute(self):
            for number, cell in enumerate(self._cells, start=1):
                cell.execution_count = number
                text = f"{next(clock)}\n"
                cell.outputs = [new_output("stream", name="stdout", text=text)]

    monkeypatch.setattr(tool, "NotebookClient", Client)
    timing = new_code_cell("time()", metadata={"tags": [tool.VARIES]})
    cells = [
        new_markdown_cell("# T"),
        new_code_cell(""),
        new_code_cell("x = 1"),
        timing,
        new_code_cell("later()"),
    ]
    file = tmp_path / "00_t.ipynb"
    nbformat.write(new_notebook(cells=cells), file)
    return file


def rerun(path, **options):
    """What each code cell shows after one more run, which is stored."""
    path.write_text(tool.run(path, **options), "utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return [c.outputs[0].text.strip() for c in cells if c.cell_type == "code"]


def edit(path, place, source):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[place].source = source
    nbformat.write(notebook, path)


def test_a_second_run_keeps_what_varies_and_nothing_else(path):
    assert rerun(path) == ["1", "2", "3", "4"]
    assert rerun(path) == ["5", "6", "3", "8"]


def test_an_output_without_a_record_of_its_code_is_made_anew(path):
    rerun(path)
    notebook = nbformat.read(path, as_version=4)
    del notebook.cells[3].metadata[tool.MADE_BY]
    nbformat.write(notebook, path)
    assert rerun(path)[2] == "7"


@pytest.mark.parametrize(("place", "kept"), [(0, True), (2, False), (3, False)])
def test_code_up_to_the_cell_makes_its_output_anew(path, place, kept):
    rerun(path)
    edit(path, place, "# other")
    assert rerun(path)[2] == ("3" if kept else "7")
    assert rerun(path)[2] == ("3" if kept else "7")


def test_later_code_does_not_matter(path):
    rerun(path)
    edit(path, 4, "other()")
    assert rerun(path)[2] == "3"


def test_remake_makes_everything_anew(path):
    rerun(path)
    assert rerun(path, remake=True)[2] == "7"
