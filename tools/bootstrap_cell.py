"""The second cell of every notebook: one text, kept here.

It finds `lib` beside a clone's `notebooks/` folder or among the installed
packages, and what the figures need, anywidget and matplotlib. On Colab it
installs `lib` from the repository and nothing else (`--no-deps`: Colab's
own torch and transformers stay as they are). Anywhere else it ends in one line
that says what to type. `tools/set_repository.py` writes the address into SOURCE
and into that line, in every notebook, from the one place where it stands,
`[tool.next-token-book]` in pyproject.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TEMPLATE = """\
# Setup: finds `lib`. On Colab, installs it. You need not read this cell.
import os, subprocess, sys

SOURCE = "{source}"  # where pip finds `lib`; empty: not published yet
if os.path.isfile("../lib/pipeline.py"):  # a clone's notebooks/ folder
    sys.path.insert(0, os.path.abspath(".."))
try:
    import lib.pipeline, anywidget, matplotlib
except ImportError as why:
    if not SOURCE or "google.colab" not in sys.modules:
        how = '{install}'
        raise SystemExit(f"{{why}}. Run: pip install {{how}}") from None
    subprocess.check_call(["pip", "install", "-q", "--no-deps", SOURCE])"""

# What pip is to install with all that the notebooks need.
COPY = '-e ".[notebooks]"   (in the folder of your copy of the book)'
PUBLISHED = '"next-token-book[notebooks] @ {source}"'

TAGS = ["remove-cell"]


def address() -> tuple[str, str]:
    """The public repository's URL (empty while unknown) and the tag to use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    place = project["tool"]["next-token-book"]
    return place["repository"], place["tag"]


def bootstrap_source(repository: str | None = None, tag: str | None = None) -> str:
    """The text of the bootstrap cell, by default for the address on file."""
    if repository is None or tag is None:
        repository, tag = address()
    source = f"git+{repository}@{tag}" if repository else ""
    install = PUBLISHED.format(source=source) if source else COPY
    return TEMPLATE.format(source=source, install=install)


if __name__ == "__main__":
    print(bootstrap_source())
