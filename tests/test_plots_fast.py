"""The figures of chapter 8: the numbers in them are the right ones."""

from __future__ import annotations

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from lib import plots  # noqa: E402
from lib.plots._fast import timeline  # noqa: E402


def written(ax):
    return [text.get_text() for text in ax.texts]


def test_shares_of_a_step_fill_the_bar(axes):
    steps = {"a": {"x": 0.003, "y": 0.001}, "b": {"x": 1e-4, "y": 3e-4}}
    plots.step_parts(steps, ax=axes)
    widths = [[bar.get_width() for bar in part] for part in axes.containers]
    assert widths == [pytest.approx([0.75, 0.25]), pytest.approx([0.25, 0.75])]
    assert written(axes) == ["4 ms", "400 µs"]


def test_the_nucleus_ends_where_adding_up_says(axes):
    plots.zipf_nucleus([1, 2], top_p=0.5, ax=axes)
    flat, steep, every = axes.lines
    # Of 1, 1/4, 1/9, … the first holds 6/π² > 1/2; of 100 harmonic terms, 8 do.
    assert set(steep.get_ydata()) == {1}
    assert flat.get_ydata()[0] == 8
    assert list(every.get_xdata()) == list(every.get_ydata())


def test_the_cut_is_the_count_th_largest_maximum(axes):
    plots.blocks([1, 5, 4, 3, 2], "abcde", count=2, size=2, ax=axes)
    dashed = next(line for line in axes.lines if line.get_linestyle() == "--")
    assert set(dashed.get_ydata()) == {4}
    with pytest.raises(ValueError, match="count=4 must be at most 3"):
        plots.blocks([1, 5, 4, 3, 2], "abcde", count=4, size=2, ax=axes)


def test_a_device_that_is_read_waits_for_python():
    host, device = timeline(5, 1, 2, 3, 3, reads=True)
    assert device[0][0] == (4, 6)
    assert device[0][-1][1] == 14 == host[1][0][0]
    assert device[1][0][0] == 14 + 3 + 1
    _, free = timeline(5, 1, 2, 3, 3, reads=False)
    assert free[1][0][0] == free[0][-1][1]  # no gap


def test_the_timelines_are_drawn(axes):
    plots.queue(2, 1, 1, 1, steps=2, ax=axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "host",
        "device",
        "host, reading",
        "device",
    ]
    assert len(axes.collections) == 8


def test_the_ridge_lies_where_slope_and_ceiling_meet(axes):
    points = {1: (0.5, 5e9), 8: (4.0, 30e9)}
    plots.roofline(80e9, 10e9, {"a": points, "b": points}, ax=axes)
    roof, ridge, *programs = axes.lines
    assert roof.get_xdata()[1] == 8 == ridge.get_xdata()[0]
    assert list(roof.get_ydata()[1:]) == [80, 80]
    assert roof.get_ydata()[0] == pytest.approx(10 * roof.get_xdata()[0])
    assert [list(line.get_ydata()) for line in programs] == [[5, 30], [5, 30]]
    assert written(axes) == ["1", "8"]
