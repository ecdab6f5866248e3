"""The page "How fast" shows what benchmarks/*.json say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import benchmark_tables  # noqa: E402

PAGE = (ROOT / "book" / "speed.md").read_text("utf-8")
SHOWN = re.findall(r"^```\{benchmark\} ([\w/]+)$", PAGE, re.MULTILINE)
SCRIPT = """
COLUMNS = {
    "what": lambda row: row["case"],
    "batch": lambda row: str(row["batch"]),
    "remark": lambda row: row.get("remark", ""),
}
"""
MACHINE = {
    "cpu": "a chip",
    "cores": 2,
    "vector_instructions": "AVX2",
    "system": "Linux",
    "python": "3.11.7",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "numpy": "2.4.6",
    "date": "2026-11-25",
}


def results(*rows):
    return json.dumps({"machine": MACHINE, "rounds": 9, "rows": rows})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_tables, "FOLDER", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_script.py").write_text(SCRIPT, "utf-8")
    yield tmp_path
    sys.modules.pop("a_script", None)


def test_rows_of_a_case_stand_together_without_what_says_nothing(folder):
    (folder / "a_script.json").write_text(
        results(
            {"case": "x", "batch": 1},
            {"case": "y", "batch": 1, "remark": "2 ms (1–3)"},
            {"case": "x", "batch": 8},
        ),
        "utf-8",
    )
    first, second, machine = re.split(
        r"\n\n(?=\*)", benchmark_tables.markdown("a_script")
    )
    assert first == "**x**\n\n| batch |\n| --- |\n| 1 |\n| 8 |"
    assert second == "**y**\n\n| batch | remark |\n| --- | --- |\n| 1 | 2 ms (1–3) |"
    assert machine.startswith("*Medians of 9 rounds on 2026-11-25: a chip, 2 cores")
    assert "transformers 5.23.0" in machine
    assert "ctranslate2" not in machine


def test_another_machine_has_a_folder_of_its_own(folder):
    (folder / "other").mkdir()
    for place, batch in ((folder, 1), (folder / "other", 8)):
        row = {"case": "x", "batch": batch}
        (place / "a_script.json").write_text(results(row), "utf-8")
    assert "| 1 |" in benchmark_tables.markdown("a_script")
    assert "| 8 |" in benchmark_tables.markdown("other/a_script")


def test_the_page_shows_all_that_was_measured_for_it():
    folder = ROOT / "benchmarks"
    files = {path.relative_to(folder) for path in folder.rglob("*.json")}
    measured = {path.with_suffix("").as_posix() for path in files}
    measured.remove("settings")  # on the page "Choosing settings"
    assert set(SHOWN) == measured


@pytest.mark.parametrize("name", SHOWN)
def test_every_row_is_in_a_table(name):
    rows = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text("utf-8"))["rows"]
    lines = benchmark_tables.markdown(name).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    cases = {row["case"] for row in rows}
    assert len(tables) == len(rows) + 2 * len(cases)
    assert all(f"**{case}**" in lines for case in cases)
