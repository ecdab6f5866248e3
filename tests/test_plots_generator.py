"""The figures of chapter 7: the numbers in them are the right ones."""

from __future__ import annotations

import pytest
import torch

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib.colors import to_hex  # noqa: E402

import lib  # noqa: E402
from lib import plots  # noqa: E402


class Spelling:
    """A tokenizer whose token v is written v."""

    def decode(self, ids):
        return f" {ids[0]}"


def squares(ax, color):
    return {
        (int(line.get_xdata()[0]), int(line.get_ydata()[0]))
        for line in ax.lines
        if line.get_marker() == "s" and to_hex(line.get_color()) == to_hex(color)
    }


def test_attention_is_a_triangle_whose_last_row_is_new(axes):
    plots.attention(["a", "b", "c"], ax=axes)
    pale = squares(axes, "#c6d9ea")
    dark = {
        (int(line.get_xdata()[0]), int(line.get_ydata()[0]))
        for line in axes.lines
        if line.get_marker() == "s"
    } - pale
    assert pale == {(0, 0), (0, 1), (1, 1)}
    assert dark == {(0, 2), (1, 2), (2, 2)}


def test_attention_leaves_padding_out(axes):
    plots.attention(["pad", "b", "c"], mask=torch.tensor([0, 1, 1]), ax=axes)
    shown = [line for line in axes.lines if line.get_marker() == "s"]
    assert len(shown) == 3
    assert all(line.get_xdata()[0] > 0 for line in shown)


def test_attention_wants_one_mask_entry_a_token(axes):
    with pytest.raises(ValueError, match="one a token"):
        plots.attention(["a", "b"], mask=[1], ax=axes)


def test_the_ledger_ends_at_21_900_and_209(axes):
    plots.ledger(10, 200, ax=axes)
    naive, cached = (line for line in axes.lines if len(line.get_xdata()) > 1)
    assert int(naive.get_ydata()[-1]) == sum(10 + i for i in range(200)) == 21_900
    assert int(cached.get_ydata()[-1]) == 10 + 199
    assert int(naive.get_ydata()[0]) == int(cached.get_ydata()[0]) == 10


SETTINGS = {
    "max_new_tokens": 5,
    "do_sample": True,
    "temperature": 1.5,
    "top_k": 3,
    "top_p": 0.8,
    "no_repeat_ngram_size": 2,
    "seed": 4,
}


def test_the_parts_of_a_bar_are_the_trace_and_sum_to_one(axes):
    world = lib.World.random(4, 5, seed=3)
    record = lib.trace(world.as_model(), world.prompt(), **SETTINGS)
    plots.trace(record, Spelling(), ax=axes)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"␣{token}" for token in record.sequences[0][1:]]
    assert [text.get_text() for text in axes.texts] == [
        str(step.rank) for step in record.steps
    ]
    bars = [patch for patch in axes.patches if patch.get_height() > 0.5]
    for place, step in enumerate(record.steps):
        row = [bar for bar in bars if round(bar.get_y() + 0.36) == place]
        widths = [bar.get_width() for bar in row]
        assert sum(widths) == pytest.approx(1.0)
        left = 1.0
        for stage in step.stages:
            left *= 1 - stage.mass
        assert widths[0] == pytest.approx(left * step.probability)
        assert widths[0] + widths[1] == pytest.approx(left)
        ban, _, top_k, _ = step.stages
        assert widths[2] == pytest.approx(ban.mass)
        assert widths[3] == pytest.approx((1 - ban.mass) * top_k.mass)


def test_a_row_that_is_not_there_is_refused(axes):
    world = lib.World.random(3, 2, seed=3)
    record = lib.trace(world.as_model(), world.prompt(), max_new_tokens=2)
    with pytest.raises(ValueError, match="row=1 must be an integer from 0 to 0"):
        plots.trace(record, Spelling(), row=1, ax=axes)
