"""Every script of benchmarks/ runs, and compares as it says it does."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import _measure  # noqa: E402

SCRIPTS = [
    path.stem
    for path in sorted(FOLDER.glob("[a-z]*.py"))
    if "_measure.main(" in path.read_text("utf-8")
]


@pytest.fixture(autouse=True)
def _threads_are_put_back():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_through_and_writes_nothing(name, capsys):
    script = importlib.import_module(name)
    results = FOLDER / f"{name}.json"
    before = results.read_bytes() if results.exists() else None
    script.main(["--quick"])
    header, line, *rows = capsys.readouterr().out.splitlines()
    assert rows
    assert {text.count("|") for text in (header, line, *rows)} == {header.count("|")}
    assert before == (results.read_bytes() if results.exists() else None)


def test_an_interrupted_run_tells_its_rows_and_keeps_the_old_file(tmp_path, capsys):
    script, results = tmp_path / "x.py", tmp_path / "x.json"
    columns = {"case": _measure.fact("case")}

    def rows(quick):
        yield {"case": "first", "batch": 8, "seconds": {}}
        if not results.exists():
            return
        raise KeyboardInterrupt

    _measure.main(str(script), rows, columns, [])
    complete = results.read_bytes()
    assert [row["case"] for row in json.loads(complete)["rows"]] == ["first"]
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        _measure.main(str(script), rows, columns, [])
    output = capsys.readouterr()
    assert output.err == "row 1: case first, batch 8\n"
    assert output.out.splitlines()[-1] == "| first |"
    assert results.read_bytes() == complete


def test_contestants_are_timed_in_turn():
    order = []
    names = ("ours", "theirs")
    contestants = {name: lambda name=name: order.append(name) for name in names}
    row = _measure.compare("case", contestants, quick=False, sample=0.0, extra=3)
    # Before the rounds each is called twice, to warm up and to be estimated.
    assert order[4:] == list(names) * _measure.ROUNDS
    assert _measure.ROUNDS >= 7
    assert row["case"] == "case"
    assert row["extra"] == 3


def test_a_ratio_is_that_of_one_round(monkeypatch):
    # The machine slows down by ten from round to round: ratios do not notice.
    clock = iter([1.0, 3.0, 10.0, 30.0, 100.0, 310.0])
    monkeypatch.setattr(_measure, "ROUNDS", 3)
    monkeypatch.setattr(_measure, "_calls", lambda f, sample: 2)
    monkeypatch.setattr(_measure.Timer, "timeit", lambda self, calls: next(clock))
    row = _measure.compare("", {"a": int, "b": int}, quick=False, units=5)
    assert row["seconds"] == {
        "a": 1.0,
        "b": 3.0,
    }  # 10 s and 30 s, two calls, five units
    assert row["times_faster"] == {"b": [3.0, 3.0, 3.1]}


def test_results_are_written_with_the_machine_and_shown_as_a_table(tmp_path, capsys):
    script = tmp_path / "script.py"
    columns = {
        "case": _measure.fact("case"),
        "lib": _measure.time_of("a"),
        "faster": _measure.faster_than("b"),
    }
    row = {"case": "x", "seconds": {"a": 2e-3}, "times_faster": {"b": [1.0, 2.0, 3.25]}}
    _measure.main(str(script), lambda quick: [row], columns, [])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "| x | 2 ms | 2 (1–3.25) |"
    data = json.loads(script.with_suffix(".json").read_text("utf-8"))
    assert data["rows"] == [row]
    assert data["machine"]["torch"] == version("torch")
    assert data["machine"]["date"].count("-") == 2
    _measure.main(
        str(script), lambda quick: pytest.fail("measured"), columns, ["--table"]
    )
    assert capsys.readouterr().out == printed
