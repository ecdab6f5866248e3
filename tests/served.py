"""The built book, served on loopback to scripts that drive a real browser."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

from javascript import require

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"  # to be looked at


def missing() -> str | None:
    """What stands in the way of a browser test, if anything."""
    if not SITE.is_dir():
        return "the book is not built: make check-book"
    if shutil.which("node") is None:
        return "node is not installed"
    if chromium() is None:
        return "Chromium is not installed"
    if not (ROOT / "node_modules" / ".stamp").is_file():
        return "no playwright-core: python tools/vendor.py tests"
    if not (ROOT / "book" / "_static" / "vendor" / ".stamp").is_file():
        return "built without vendored JavaScript: python tools/vendor.py"
    return None


def chromium() -> str | None:
    names = ["chromium", "chromium-browser", "google-chrome"]
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    return next(filter(None, candidates), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def drive(script: str, **order: Any) -> Any:
    """Run ``tests/browser/SCRIPT`` on the served book and return its answer.

    Skips loudly where something is missing; fails instead where nothing may be skipped.
    """
    require("browser", missing())
    SHOTS.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        order |= {
            "base": f"http://127.0.0.1:{server.server_port}/",
            "chromium": chromium(),
            "shots": str(SHOTS),
        }
        node = subprocess.run(
            ["node", f"tests/browser/{script}", json.dumps(order)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=1500,
        )
        server.shutdown()
    assert node.returncode == 0, node.stderr
    return json.loads(node.stdout)
