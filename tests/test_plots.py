"""The figures: drawn from the right numbers, shown once, and nothing left behind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import lib  # noqa: E402
from lib import plots  # noqa: E402

STYLE = Path(lib.__file__).parent / "book.mplstyle"
WORDS = ["bed", "cat", "floor", "mat", "on", "roof", "sat", "sofa", "the"]
LOGITS = torch.tensor([32.0, 4, 16, 128, 1, 8, 1, 64, 2]).log()
# Greedy takes a, then b; the best text is b b.
FORK = lib.World.from_table({(): [0.6, 0.4], (0,): [0.45, 0.55], (1,): [0.0, 1.0]}, 2)

TRACE = lib.Trace(
    sequences=[[8, 3]],
    seed=(0,),
    steps=(
        lib.StepRecord(
            step=0,
            row=0,
            stages=(lib.StageRecord("top_k(2)", 7, 0.25, 1.4, 0.6),),
            u=0.5,
            token=3,
            rank=0,
            raw_probability=0.5,
            probability=2 / 3,
        ),
    ),
    pipeline="top_k(2) -> sample",
    custom_pipeline=False,
    input_ids=[[8]],
    attention_mask=None,
    settings={},
)


class Spelling:
    """A tokenizer for nine words."""

    def decode(self, ids):
        return " " + WORDS[ids[0]]


@pytest.fixture
def shown(monkeypatch):
    """The figures that were shown."""
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    yield figures
    plt.close("all")


CALLS = {
    "candidates": lambda **k: plots.candidates(LOGITS, Spelling(), top=3, **k),
    "surprisal": lambda **k: plots.surprisal([" a", "b\n"], [1.0, 3.0], **k),
    "soft_argmax": lambda **k: plots.soft_argmax(1.0, **k),
    "one_logit": lambda **k: plots.one_logit(LOGITS, WORDS, "roof", **k),
    "attention": lambda **k: plots.attention(WORDS[:3], **k),
    "ledger": lambda **k: plots.ledger(3, 4, **k),
    "trace": lambda **k: plots.trace(TRACE, Spelling(), **k),
    "at_temperatures": lambda **k: plots.at_temperatures(LOGITS, Spelling(), **k),
    "frontier": lambda **k: plots.frontier(LOGITS, **k),
    "along_temperature": lambda **k: plots.along_temperature(LOGITS, WORDS, **k),
    "step_or_text": lambda **k: plots.step_or_text(FORK, {"best": (1, 0)}, **k),
    "entropy_along": lambda **k: plots.entropy_along(LOGITS.repeat(2, 1), **k),
    "repeats": lambda **k: plots.repeats([0, 1, 2] * 4, 2, below=[0, 0, 0], **k),
    "ban_cost": lambda **k: plots.ban_cost([8, 16], {"a": [28, 120]}, **k),
    "banned_mass": lambda **k: plots.banned_mass([0.1, 0.9], [False, True], **k),
    "nucleus": lambda **k: plots.nucleus(LOGITS, Spelling(), 0.9, top=6, **k),
    "cut_offs": lambda **k: plots.cut_offs(
        torch.stack([LOGITS, 2 * LOGITS]), ["one", "two"], 0.9, **k
    ),
    "nucleus_sizes": lambda **k: plots.nucleus_sizes(
        torch.stack([LOGITS, 2 * LOGITS]), 0.9, **k
    ),
    "tree": lambda **k: plots.tree(FORK, ["a", "b"], **k),
    "typical": lambda **k: plots.typical(
        {1: [0, 0.5, 0.5], 2: [0, 0, 0.25, 0.5, 0.25]}, entropy=1.0, best=0.7, **k
    ),
    "luck": lambda **k: plots.luck(
        torch.stack([LOGITS, 2 * LOGITS]), WORDS, ["one", "two"], [0.6], **k
    ),
    "recurrence": lambda **k: plots.recurrence([0, 1, 2] * 4, list(range(12)), **k),
    "tradeoff": lambda **k: plots.tradeoff(
        {"greedy": ((1, 2, 3), (0.1, 0.2, 0.3))}, xlabel="x", ylabel="y", **k
    ),
    "kept": lambda **k: plots.kept(LOGITS, WORDS, 3, **k),
    "mass_by_rank": lambda **k: plots.mass_by_rank(
        {"a": LOGITS, "b": LOGITS / 2}, 3, **k
    ),
    "tokens_needed": lambda **k: plots.tokens_needed(
        torch.tensor([0.1, 2.0]), torch.tensor([1, 300]), 40, **k
    ),
    "step_parts": lambda **k: plots.step_parts({"a": {"x": 1e-3, "y": 2e-4}}, **k),
    "zipf_nucleus": lambda **k: plots.zipf_nucleus([1, 2], **k),
    "blocks": lambda **k: plots.blocks([1, 3, 2, 0], WORDS[:4], count=1, size=2, **k),
    "queue": lambda **k: plots.queue(2, 1, 2, 1, **k),
    "roofline": lambda **k: plots.roofline(8e9, 2e9, {"a": {1: (0.5, 1e9)}}, **k),
}


def test_every_figure_is_tested():
    assert set(CALLS) == set(plots.__all__) - {"visible"}


@pytest.mark.parametrize("name", CALLS)
def test_a_figure_is_shown_once_and_returns_nothing(name, shown):
    before = dict(matplotlib.rcParams)
    assert CALLS[name]() is None
    assert len(shown) == 1
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", CALLS)
def test_given_axes_are_drawn_on_and_not_shown(name, shown):
    figure, ax = plt.subplots()
    CALLS[name](ax=ax)
    assert not shown
    assert ax.has_data()
    figure.canvas.draw()


@pytest.mark.parametrize("name", CALLS)
def test_a_figure_is_the_same_every_time_and_small(name, shown, tmp_path):
    sizes = []
    for number in range(2):
        CALLS[name]()
        path = tmp_path / f"{number}.png"
        with plt.style.context(STYLE):
            shown[-1].savefig(path)
        sizes.append(path.read_bytes())
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) < 150_000


def test_candidates_show_the_best_and_the_rest(shown):
    plots.candidates(LOGITS, Spelling(), top=3)
    (axes,) = shown[0].axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["␣mat", "␣sofa", "␣bed", "6 others"]
    assert max(widths) < axes.get_xlim()[1]


def test_candidates_of_a_whole_vocabulary_leave_no_rest(shown):
    plots.candidates(LOGITS, Spelling(), top=50)
    (axes,) = shown[0].axes
    assert len(axes.patches) == 9


def test_surprisal_marks_the_mean(shown):
    CALLS["surprisal"]()
    (axes,) = shown[0].axes
    assert [bar.get_width() for bar in axes.patches] == [1.0, 3.0]
    assert axes.lines[0].get_xdata()[0] == 2.0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["␣a", "b⏎"]


def test_surprisal_wants_one_number_a_token():
    with pytest.raises(ValueError, match="one a token"):
        plots.surprisal(["a"], [1.0, 2.0])


def test_soft_argmax_marks_the_softmax(shown):
    plots.soft_argmax(1.0)
    (axes,) = shown[0].axes
    total = axes.lines[2]
    q, values = total.get_data()
    best = lib.softmax(torch.tensor([1.0, 0.0]))[0]
    assert float(q[values.argmax()]) == pytest.approx(float(best), abs=0.005)
    assert float(values.max()) == pytest.approx(math.log(1 + math.e), abs=1e-3)


def test_one_logit_keeps_the_odds_of_the_others(shown):
    CALLS["one_logit"]()
    (axes,) = shown[0].axes
    curves = {label.get_text(): None for label in axes.texts}
    assert list(curves) == ["mat", "sofa", "bed", "roof"]
    dashed, dotted = (
        next(line for line in axes.lines if line.get_linestyle() == style)
        for style in ("--", ":")
    )
    ratio = torch.as_tensor(dashed.get_ydata()) / torch.as_tensor(dotted.get_ydata())
    assert torch.allclose(ratio, torch.full_like(ratio, 2.0), atol=1e-4)


def test_kept_shows_both_distributions_best_first(shown):
    plots.kept(LOGITS, WORDS, 3)
    (axes,) = shown[0].axes
    widths = [bar.get_width() for bar in axes.patches]
    before, after = widths[:9], widths[9:]
    assert before == pytest.approx([2.0**-i for i in range(1, 9)] + [2.0**-8])
    assert after == pytest.approx([4 / 7, 2 / 7, 1 / 7] + [0] * 6)
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["mat", "sofa"]


def test_mass_by_rank_marks_the_mass_at_k(shown):
    plots.mass_by_rank({"toy": LOGITS}, 3)
    (axes,) = shown[0].axes
    curve, dot = axes.lines[:2]
    assert list(curve.get_ydata())[:3] == pytest.approx([1 / 2, 3 / 4, 7 / 8])
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (3, pytest.approx(7 / 8))
    assert axes.get_legend() is None


def test_mass_by_rank_takes_k_beyond_the_vocabulary(shown):
    plots.mass_by_rank({"a": LOGITS, "b": LOGITS / 2}, 50)
    (axes,) = shown[0].axes
    assert axes.lines[1].get_xdata()[0] == 9
    assert axes.get_legend() is not None


def test_tokens_needed_parts_the_steps_at_k(shown):
    CALLS["tokens_needed"]()
    (axes,) = shown[0].axes
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[1], [300]]
    with pytest.raises(ValueError, match="one a step"):
        plots.tokens_needed(torch.zeros(2), torch.zeros(3), 40)
