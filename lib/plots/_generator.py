"""Figures of chapter 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lib.plots._drawing import REST, drawing, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lib.tracing import StepRecord, Trace

_HATCHES = ("///", "...", "xxx", "\\\\\\", "+++")


def attention(
    tokens: Sequence[str],
    *,
    new: int = 1,
    mask: Tensor | Sequence[int] | None = None,
    ax: Axes | None = None,
) -> None:
    """Squares: which token looks at which, and what a step with a cache computes.

    Args:
        tokens: the text, oldest first.
        new: how many tokens at the end are fed; the rows of the others are stored.
        mask: 0 at padding; None where there is none.
        ax: where to draw; None makes a figure and shows it.
    """
    real = [True] * len(tokens) if mask is None else [bool(bit) for bit in mask]
    if len(real) != len(tokens):
        raise ValueError(
            f"mask has {len(real)} entries for {len(tokens)} tokens; "
            "allowed is one a token"
        )
    first_new = len(tokens) - new
    with drawing(ax, rows=len(tokens) + 2) as axes:
        for query in range(len(tokens)):
            for key in range(len(tokens)):
                if key > query or not real[key] or not real[query]:
                    axes.plot(key, query, ".", color=REST, markersize=3)
                    continue
                fresh = query >= first_new
                axes.plot(
                    key,
                    query,
                    "s",
                    markersize=13,
                    color="C0" if fresh else "#c6d9ea",
                )
        names = [visible(token) for token in tokens]
        axes.set_xticks(range(len(tokens)), names)
        axes.set_yticks(range(len(tokens)), names)
        axes.set_xlim(-0.6, len(tokens) - 0.4)
        axes.set_ylim(len(tokens) - 0.4, -0.6)
        axes.set_xlabel("looked at (key, value)")
        axes.set_ylabel("looks (query)")
        axes.grid(False)
        axes.tick_params(length=0)
        axes.set_aspect("equal")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)


def ledger(prompt: int, steps: int, *, ax: Axes | None = None) -> None:
    """Curves: token positions that went through the model, with and without a cache.

    Args:
        prompt: tokens of the prompt.
        steps: new tokens.
        ax: where to draw; None makes a figure and shows it.
    """
    new = torch.arange(1, steps + 1)
    naive = new * prompt + new * (new - 1) // 2
    cached = prompt + new - 1
    with drawing(ax) as axes:
        for values, name, colour, line in (
            (naive, "whole text, every step", "C1", "--"),
            (cached, "with a cache", "C0", "-"),
        ):
            axes.plot(new, values, color=colour, linestyle=line)
            axes.plot(new[-1], values[-1], "o", color=colour)
            axes.annotate(
                f"{name}: {int(values[-1]):,}",
                (float(new[-1]), float(values[-1])),
                xytext=(-4, 7),
                textcoords="offset points",
                ha="right",
            )
        axes.set_yscale("log")
        axes.set_ylim(prompt * 0.7, float(naive[-1]) * 3)
        axes.set_xlim(0, steps * 1.02)
        axes.set_xlabel("new tokens")
        axes.set_ylabel("token forwards")


def trace(
    record: Trace, tokenizer: Any, *, row: int = 0, ax: Axes | None = None
) -> None:
    """Bars: step by step, what each stage removed, and what luck chose of the rest.

    A bar is the whole of the probability. Each stage takes its share of what the
    stages before it have left; what remains is the token chosen and the others that
    could have come. The number behind it is the chosen token's rank among the model's
    logits.

    Args:
        record: what ``lib.trace`` returned.
        tokenizer: turns ids into text.
        row: which of its rows to show.
        ax: where to draw; None makes a figure and shows it.
    """
    steps = [step for step in record.steps if step.row == row]
    if not steps:
        last = max((step.row for step in record.steps), default=-1)
        raise ValueError(f"row={row} must be an integer from 0 to {last}")
    names = [stage.name for stage in steps[0].stages]
    cutting = [n for n in names if not n.startswith("temperature")]
    with drawing(ax, rows=len(steps) + 3) as axes:
        for place, step in enumerate(steps):
            chosen, others, removed = _shares(step)
            axes.barh(place, chosen, height=0.72, color="C0")
            axes.barh(place, others, height=0.72, left=chosen, color="#c6d9ea")
            left = chosen + others
            for number, name in enumerate(cutting):
                width = removed[name]
                axes.barh(
                    place,
                    width,
                    height=0.72,
                    left=left,
                    color="white",
                    edgecolor=f"C{number + 1}",
                    hatch=_HATCHES[number % len(_HATCHES)],
                    linewidth=0.6,
                )
                left += width
            axes.annotate(
                f"{step.rank}",
                (1.0, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_yticks(
            range(len(steps)),
            [visible(tokenizer.decode([step.token])) for step in steps],
        )
        axes.set_ylim(len(steps) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xlabel("probability")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        _legend(axes, cutting)


def _shares(step: StepRecord) -> tuple[float, float, dict[str, float]]:
    """Chosen token, others that remain, and what each stage took: they sum to 1."""
    left, removed = 1.0, {}
    for stage in step.stages:
        removed[stage.name] = left * stage.mass
        left -= removed[stage.name]
    chosen = left * step.probability
    return chosen, left - chosen, removed


def _legend(axes: Axes, cutting: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color="C0", label="chosen"),
        Patch(color="#c6d9ea", label="possible"),
    ]
    for number, name in enumerate(cutting):
        handles.append(
            Patch(
                facecolor="white",
                edgecolor=f"C{number + 1}",
                hatch=_HATCHES[number % len(_HATCHES)],
                linewidth=0,
                label=name,
            )
        )
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=2,
        borderaxespad=0.2,
        columnspacing=1.2,
    )
