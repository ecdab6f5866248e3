"""The figures of chapter 6: the numbers in them are the right ones."""

from __future__ import annotations

import math

import pytest
import torch

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import lib  # noqa: E402
from lib import plots  # noqa: E402


def written(ax):
    return [text.get_text() for text in ax.texts]


def test_the_tree_shows_every_possible_text_and_leaves_out_the_others(axes):
    world = lib.World.from_table(
        {(): [0.6, 0.4], (0,): [0.45, 0.55], (1,): [0.0, 1.0]}, 2
    )
    plots.tree(world, ["a", "b"], ax=axes)
    assert [text for text in written(axes) if text in "ab"] == ["a", "b", "a", "b", "b"]
    assert [text for text in written(axes) if len(text) == 5] == [
        "0.270",
        "0.330",
        "0.400",
    ]
    assert {"0.6", "0.4", "0.45", "0.55", "1"} <= set(written(axes))
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(dashed) == world.length  # the greedy text


def test_the_curves_of_typical_are_densities(axes):
    laws = {4: torch.tensor([0.0, 0.25, 0.5, 0.25]), 2: torch.tensor([0.5, 0.5])}
    plots.typical(laws, entropy=0.5, best=0.2, ax=axes)
    for (length, law), line in zip(laws.items(), axes.lines, strict=False):
        x, y = line.get_data()
        step = math.log(2) / length
        assert float(y.sum()) * step == pytest.approx(1)
        mean = float((law * torch.arange(len(law))).sum()) * step
        assert float((x * y).sum()) * step == pytest.approx(mean)


def test_the_strips_are_the_intervals_that_sample_inverts(axes):
    z = torch.tensor([[0.0, 1.0, 0.5], [0.0, 3.0, 1.5]])
    plots.luck(z, ["a", "b", "c"], ["one", "two"], [0.2], ax=axes)
    assert len(axes.patches) == 6
    for place, strip in enumerate(axes.patches):
        setting, token = divmod(place, 3)
        middle = torch.tensor(strip.get_x() + strip.get_width() / 2).double()
        assert int(lib.sample(z[setting], middle)) == token


def test_recurrence_puts_one_text_on_each_side(axes):
    loop, none = [0, 1, 2] * 3, list(range(9))
    plots.recurrence(loop, none, n=3, ax=axes)
    below, above = (list(zip(*line.get_data(), strict=True)) for line in axes.lines[:2])
    assert above == []
    assert {(int(x), int(y)) for x, y in below} == {
        (x, y) for y in range(7) for x in range(y) if (y - x) % 3 == 0
    }


def test_recurrence_wants_texts_of_one_length():
    with pytest.raises(ValueError, match="the same number"):
        plots.recurrence([0, 1, 2, 3], [0, 1, 2], n=2)


def test_tradeoff_draws_the_bars_as_given(axes):
    plots.tradeoff({"a": ((1, 2, 4), (0.1, 0.2, 0.4))}, xlabel="x", ylabel="y", ax=axes)
    (container,) = axes.containers
    across, upright = container[2]
    assert across.get_segments()[0][:, 0].tolist() == [1, 4]
    assert upright.get_segments()[0][:, 1].tolist() == pytest.approx([0.1, 0.4])
