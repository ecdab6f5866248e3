"""A directive that shows what a script of `benchmarks/` has measured.

    ```{benchmark} step
    ```

The table is made from `benchmarks/step.json` whenever the book is built, with the
script's own columns, and ends in a line that says on what it was measured. What another
machine measured lies in a folder beside it: `{benchmark} intel/step`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import _measure  # noqa: E402


def markdown(name: str) -> str:
    """A script's results: for each case a table, and at the end the machine."""
    script = importlib.import_module(_script(name))
    data = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in data["rows"]:
        cases.setdefault(row["case"], []).append(row)
    tables = [_case(case, rows, script.COLUMNS) for case, rows in cases.items()]
    return "\n\n".join([*tables, _measured_on(data)])


def _script(name: str) -> str:
    return name.split("/")[-1]


def _case(case: str, rows: list[dict[str, Any]], columns: dict[str, Any]) -> str:
    """One table, without the columns that say nothing or nothing new."""
    told = {
        name: cell
        for name, cell in columns.items()
        if not {cell(row) for row in rows} <= {case, ""}
    }
    return f"**{case}**\n\n{_measure.table(rows, told)}"


def _measured_on(data: dict[str, Any]) -> str:
    machine = data["machine"]
    versions = ", ".join(
        f"{package} {machine[package]}"
        for package in ("torch", "transformers", "numpy", "ctranslate2")
        if package in machine
    )
    chip = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['vector_instructions']}"
    )
    chip += f"; {machine['gpu']}" if "gpu" in machine else ""
    return (
        f"*Medians of {data['rounds']} rounds on {machine['date']}: {chip}; "
        f"{machine['system']}, Python {machine['python']}, {versions}.*"
    )


class Benchmark(SphinxDirective):
    """``{benchmark} name``: the results in ``benchmarks/name.json``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        for file in (f"{name}.json", f"{_script(name)}.py"):
            self.env.note_dependency(str(FOLDER / file))
        return [
            nodes.container(
                "", *self.parse_text_to_nodes(markdown(name)), classes=["benchmark"]
            )
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("benchmark", Benchmark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
