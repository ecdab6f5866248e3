"""Functions of a chapter, as its cells define them."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

from javascript import ROOT


def functions(notebook: str, *names: str) -> list[Callable[..., Any]]:
    """The functions of these names, which need nothing but each other."""
    text = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf-8")
    namespace: dict[str, Any] = {}
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                if isinstance(node, ast.FunctionDef) and node.name in names:
                    code = compile(ast.Module([node], []), notebook, "exec")
                    exec(code, namespace)
    return [namespace[name] for name in names]
