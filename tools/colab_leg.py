"""Run each notebook as Colab would: alone, from an empty folder, its versions.

    python tools/colab_leg.py

A second environment, `.venv-colab`, gets the versions that Colab has of what
the notebooks use, a stand-in for the `google.colab` module, and not `lib`. The
setup cell has to install `lib` itself; as long as the book has no public
address, it is given this folder as the place to install from.

Colab's torch is left out: the environment takes the one of constraints.txt.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-colab"
PYTHON = ENVIRONMENT / "bin" / "python"

# What Colab has, and what it takes to run a notebook there.
COLAB = [
    "transformers==5.15.*",
    "ipywidgets==7.7.*",
    "anywidget==0.9.*",
    "ipython==7.34.*",
    "ipykernel<7",
    "numpy==2.1.*",
    "matplotlib",
    "nbclient",
    "nbformat",
    "setuptools>=77",
]

RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
"""


def run(*command: object, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def prepare() -> None:
    torch = re.search(r"(?m)^torch==\S+", (ROOT / "constraints.txt").read_text("utf-8"))
    assert torch, "constraints.txt pins no torch"
    wanted = "\n".join([torch[0], *COLAB])
    mark = ENVIRONMENT / ".installed"
    if not (mark.is_file() and mark.read_text("utf-8") == wanted):
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        run(sys.executable, "-m", "venv", ENVIRONMENT)
        run(PYTHON, "-m", "pip", "install", "-q", torch[0], *COLAB)
        mark.write_text(wanted, "utf-8")
    # Kernels import google.colab before the first cell, as Colab's do.
    library = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    colab = Path(library) / "google" / "colab"
    colab.mkdir(parents=True, exist_ok=True)
    (colab / "__init__.py").write_text("", "utf-8")
    (Path(library) / "colab_stub.pth").write_text("import google.colab\n", "utf-8")


def check(path: Path) -> None:
    """One notebook: uninstall `lib`, copy the notebook to an empty folder, run."""
    run(PYTHON, "-m", "pip", "uninstall", "-q", "-y", "next-token-book")
    with tempfile.TemporaryDirectory() as folder:
        text = path.read_text("utf-8")
        # The address as JSON holds it, inside a string of the cell's source.
        text = text.replace(r"SOURCE = \"\"", rf"SOURCE = \"{ROOT}\"")
        copy = Path(folder) / path.name
        copy.write_text(text, "utf-8")
        environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
        }
        run(PYTHON, "-c", RUN, copy, cwd=folder, env=environment)


def main() -> int:
    prepare()
    failed = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        try:
            check(path)
        except subprocess.CalledProcessError:
            failed.append(path.name)
        print(f"{path.name}: {'FAILED' if path.name in failed else 'ok'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
