"""Run `node --test` files on golden data that the Python side writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def require(tests: str, missing: str | None) -> None:
    """Skip loudly where something is missing; fail where nothing may be skipped."""
    if missing is None:
        return
    if os.environ.get("NTB_REQUIRE_ALL") == "1":
        pytest.fail(f"{tests} tests cannot run: {missing}")
    pytest.skip(f"NO {tests.upper()} TESTS: {missing}")


def require_node() -> None:
    require("JavaScript", None if shutil.which("node") else "node is not installed")


def run_node_test(script: str, golden: Any, folder: Path) -> str:
    """Run ``tests/js/SCRIPT`` on golden data: what it printed, or a failed test."""
    require_node()
    path = folder / "golden.json"
    path.write_text(json.dumps(golden), "utf-8")
    node = subprocess.run(
        ["node", "--test", "--test-reporter=tap", f"tests/js/{script}"],
        cwd=ROOT,
        env={**os.environ, "GOLDEN": str(path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert node.returncode == 0, node.stdout[-4000:] + node.stderr[-2000:]
    return node.stdout
