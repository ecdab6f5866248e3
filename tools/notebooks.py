"""Run the notebooks and store their outputs, byte for byte the same each time.

    python tools/notebooks.py                     # all, in order
    python tools/notebooks.py notebooks/01_*.ipynb
    python tools/notebooks.py --check             # change nothing, exit 1 if it would
    python tools/notebooks.py --remake            # measure timings anew

Outputs carry no timestamps, no machine's name, and ids that depend only on
their place: cells are `c001`, `c002`, …, widget models are numbered in order.
What differs from run to run all the same, timings above all, stands in cells with
the tag `nbval-ignore-output`. Their outputs stay as they are until code up to that
cell changes, or `--remake` is given. A second run therefore changes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).parent))
from bootstrap_cell import bootstrap_source

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
VARIES = "nbval-ignore-output"
MADE_BY = "made_by"  # a cell's metadata: the code that its outputs come from
ID = re.compile(r"\b[0-9a-f]{32}\b|(?<=IPY_MODEL_)[0-9a-f]{32}\b")

METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
    },
}


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: how print is cut up is timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def stable_widget_ids(notebook: dict[str, Any]) -> dict[str, str]:
    """Number widget models as a reader meets them: views first, then their parts."""
    widgets = notebook["metadata"].get("widgets", {})
    state = widgets.get(WIDGET_STATE, {}).get("state", {})
    order: dict[str, str] = {}

    def visit(model: str) -> None:
        if model in state and model not in order:
            order[model] = f"{len(order) + 1:032x}"
            for part in ID.findall(json.dumps(state[model], sort_keys=True)):
                visit(part)

    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(WIDGET_VIEW)
            if view:
                visit(view["model_id"])
    # Models that no view leads to, by what they hold rather than by their id.
    for model in sorted(state, key=lambda m: ID.sub("", json.dumps(state[m]))):
        visit(model)
    return order


def normalise(notebook: NotebookNode) -> str:
    """The notebook's text with everything that varies taken out."""
    widgets = notebook.metadata.get("widgets")
    if widgets and not widgets.get(WIDGET_STATE, {}).get("state"):
        widgets = None
    notebook.metadata = nbformat.from_dict(
        METADATA | ({"widgets": widgets} if widgets else {})
    )
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"c{number:03d}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    content = to_disk(notebook)
    ids = stable_widget_ids(content)
    numbered = ID.sub(lambda match: ids.get(match[0], match[0]), json.dumps(content))
    return (
        json.dumps(json.loads(numbered), indent=1, ensure_ascii=False, sort_keys=True)
        + "\n"
    )


def to_disk(notebook: NotebookNode) -> dict[str, Any]:
    """Split long strings into lists of lines, as notebook files hold them."""
    return json.loads(nbformat.v4.writes(notebook))


def varying(notebook: NotebookNode) -> list[tuple[NotebookNode, str]]:
    """The cells whose outputs differ from run to run, and what they come from."""
    found, code = [], hashlib.sha256()
    for cell in notebook.cells[2:]:  # without the setup, which an address changes
        if cell.cell_type == "code":
            code.update(cell.source.encode() + b"\0")
            if VARIES in cell.metadata.get("tags", []):
                found.append((cell, code.hexdigest()[:12]))
    return found


def run(path: Path, *, remake: bool = False) -> str:
    """Execute one notebook in its own folder; return its text."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = bootstrap_source()
    measured = [
        (cell, cell.outputs if cell.metadata.get(MADE_BY) == code else None)
        for cell, code in varying(notebook)
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    for cell, outputs in measured:
        if outputs is not None and not remake:
            cell.outputs = outputs
    for cell, code in varying(notebook):
        cell.metadata[MADE_BY] = code
    return normalise(notebook)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 on a difference"
    )
    parser.add_argument(
        "--remake", action="store_true", help=f"also the outputs tagged {VARIES}"
    )
    arguments = parser.parse_args()
    # Float sums must not depend on the number of cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["PYTHONHASHSEED"] = "0"
    changed = 0
    for path in arguments.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        start = time.perf_counter()
        text = run(path.resolve(), remake=arguments.remake)
        seconds = time.perf_counter() - start
        same = path.read_text("utf-8") == text
        changed += not same
        if not same and not arguments.check:
            path.write_text(text, "utf-8")
        print(f"{path.name}: {seconds:.1f} s, {'unchanged' if same else 'changed'}")
    return 1 if arguments.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
