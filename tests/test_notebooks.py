"""What every committed notebook must be, before its outputs are compared.

nbval compares outputs, but passes a notebook whose outputs were stripped, and
looks neither at pictures nor at style. These checks stand in for a reader.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import bootstrap_cell  # noqa: E402

import notebooks as notebook_tool  # noqa: E402

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LINE = 76  # what fits the page's column and a phone held sideways

pytestmark = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    """The Markdown cells without their fenced code."""
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            yield re.sub(r"(?ms)^```.*?^```", "", cell.source)


def figures(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if any(mime.startswith("image/") for mime in output.get("data", {})):
                yield cell
                break


def test_every_code_cell_was_run_in_order(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), (
        f"{path.name} is not stored as run from top to bottom: `make notebooks`"
    )


def test_outputs_are_not_stripped(path):
    assert any(cell.outputs for cell in code_cells(path)), "no output at all"
    for cell in code_cells(path):
        last = (ast.parse(cell.source).body or [None])[-1]
        # A cell that ends in an expression or a call of print shows something.
        if isinstance(last, ast.Expr) and not cell.source.rstrip().endswith(";"):
            assert cell.outputs, f"nothing was shown by: {ast.unparse(last)}"


def test_no_error_and_nothing_on_stderr(path):
    for cell in code_cells(path):
        tags = cell.metadata.get("tags", [])
        for output in cell.outputs:
            if output.output_type == "error":
                assert "raises-exception" in tags, cell.source
            assert output.get("name") != "stderr", cell.source


def test_outputs_hold_nothing_that_changes(path):
    for cell in code_cells(path):
        text = json.dumps(cell.outputs)
        assert not re.search(r"\b0x[0-9a-f]{6,}\b", text), f"address in: {text[:200]}"
        assert "tensor(" not in text, f"bare tensor shown by: {cell.source}"
        assert str(ROOT) not in text, f"path in: {text[:200]}"


def test_stored_as_the_tool_stores(path):
    assert notebook_tool.normalise(read(path)) == path.read_text("utf-8"), (
        f"{path.name} was saved by another program: `make notebooks`"
    )


def test_second_cell_is_the_setup(path):
    cell = read(path).cells[1]
    assert cell.cell_type == "code"
    assert cell.source == bootstrap_cell.bootstrap_source()
    assert cell.metadata.get("tags") == bootstrap_cell.TAGS
    assert not cell.outputs


def test_one_title_and_no_skipped_level(path):
    levels = [
        len(match[1])
        for text in prose(path)
        for match in re.finditer(r"(?m)^(#{1,6}) \S", text)
    ]
    assert levels[:1] == [1]
    assert levels.count(1) == 1
    for above, below in itertools.pairwise(levels):
        assert below <= above + 1, f"a heading skips from {above} to {below}"


def test_markdown_is_plain(path):
    # MyST directives and roles show as raw text in Colab and on GitHub.
    for text in prose(path):
        assert not re.search(r"(?m)^(```|:::|~~~)\s*\{", text), text[:200]
        assert not re.search(r"\{[a-z:]+\}`", text), text[:200]
        assert not re.search(r"(?m)^\(\S+\)=$", text), text[:200]
        # A tag in a several-line $$ block must stand in align: see the design.
        for block in re.findall(r"(?s)\$\$(.*?)\$\$", text):
            if r"\\" in block and r"\tag" in block:
                assert r"\begin{align" in block, block


def test_equation_tags_are_unique_and_carry_the_chapter(path):
    chapter = int(path.stem[:2])
    tags = [tag for text in prose(path) for tag in re.findall(r"\\tag\{(.+?)\}", text)]
    assert len(tags) == len(set(tags)), tags
    expected = [f"{chapter}.{number}" for number in range(1, len(tags) + 1)]
    assert tags == expected


def test_code_is_narrow(path):
    long = [
        line
        for cell in code_cells(path)[1:]  # an address makes the setup wider
        for line in cell.source.splitlines()
        if len(line) > LINE
    ]
    assert not long


def test_every_figure_speaks_to_who_cannot_see_it(path):
    for cell in figures(path):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        last = cell.source.splitlines()[-1]
        assert len(alt.split()) >= 6, f"no alt text on the figure of: {last}"
        assert alt[0].isupper(), f"not a sentence: {alt}"
        assert alt.endswith("."), f"not a sentence: {alt}"
        assert not alt.lower().startswith(("image of", "figure of", "picture of"))


def test_figures_are_not_huge(path):
    for cell in figures(path):
        for output in cell.outputs:
            png = output.get("data", {}).get("image/png", "")
            assert len(png) < 200_000, "a figure above 150 kB"


def test_links_to_files_lead_somewhere(path):
    for text in prose(path):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target) or target.startswith("#"):
                continue
            assert (path.parent / target.split("#")[0]).exists(), target
