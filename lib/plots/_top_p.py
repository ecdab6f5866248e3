"""Figures of chapter 4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lib import distribution, truncation
from lib.plots._drawing import REST, bars, drawing, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = ("-", "--", "-.", ":")


def nucleus(
    logits: Tensor,
    tokenizer: Any,
    top_p: float,
    *,
    top: int = 10,
    ax: Axes | None = None,
) -> None:
    """Bars: the most probable tokens, those of the nucleus coloured, the rest grey.

    Args:
        logits: float tensor ``(vocab,)``.
        tokenizer: turns ids into text.
        top_p: the mass to keep.
        top: how many tokens get a bar of their own.
        ax: where to draw; None makes a figure and shows it.
    """
    scores = logits.detach().cpu()
    probs = distribution.softmax(scores.double())
    size = int((truncation.apply_top_p(scores, top_p) > -torch.inf).sum())
    ranked = probs.sort(descending=True)
    best = min(top, len(probs))
    names = [visible(tokenizer.decode([v])) for v in ranked.indices[:best].tolist()]
    groups = [
        (names[: min(size, best)], ranked.values[: min(size, best)].tolist(), "C0"),
        *_together("more kept", ranked.values[best:size], "C0"),
        (names[size:], ranked.values[size:best].tolist(), REST),
        *_together("removed", ranked.values[max(size, best) :], REST),
    ]
    groups = [group for group in groups if group[0]]
    with drawing(ax, rows=sum(len(group[0]) for group in groups)) as axes:
        below = 0
        for labels, values, color in groups:
            bars(axes, labels, values, below=below, color=color)
            below += len(labels)
        axes.set_xlabel("probability")
        axes.set_xlim(0, 1.15 * max(max(values) for _, values, _ in groups))


def _together(
    what: str, values: Tensor, color: str
) -> list[tuple[list[str], list[float], str]]:
    """One bar for many tokens; none for none."""
    if not len(values):
        return []
    return [([f"{len(values):,} {what}"], [float(values.sum())], color)]


def cut_offs(
    logits: Tensor, labels: Sequence[str], top_p: float, *, ax: Axes | None = None
) -> None:
    """Curves: the mass of the k best tokens, and where it reaches ``top_p``.

    Args:
        logits: float tensor ``(rows, vocab)``.
        labels: a name for each row.
        top_p: the mass to keep.
        ax: where to draw; None makes a figure and shows it.
    """
    probs = distribution.softmax(logits.detach().cpu().double())
    mass = probs.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    sizes = (truncation.apply_top_p(logits, top_p) > -torch.inf).sum(dim=-1)
    count = torch.arange(1, logits.shape[-1] + 1)
    with drawing(ax) as axes:
        axes.axhline(top_p, color="#555555", linewidth=1)
        for row, label in enumerate(labels):
            line, color = _LINES[row % len(_LINES)], f"C{row}"
            size = int(sizes[row])
            reached = float(mass[row, size - 1])
            axes.plot(count, mass[row], line, color=color, label=label)
            axes.plot([size, size], [0, reached], color=color, linewidth=1)
            axes.plot([size], [reached], "o", color=color)
        axes.set_xscale("log")
        axes.set_xlim(0.9, logits.shape[-1])
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("number of tokens $k$")
        axes.set_ylabel("mass $C_k$ of the $k$ best")
        axes.legend(loc="lower right")


def nucleus_sizes(logits: Tensor, top_p: float, *, ax: Axes | None = None) -> None:
    """Points: entropy and size of the nucleus at each step, between their bounds.

    Args:
        logits: float tensor ``(steps, vocab)``.
        top_p: the mass to keep, below 1.
        ax: where to draw; None makes a figure and shows it.
    """
    scores = logits.detach().cpu()
    entropy = distribution.entropy(scores.double())
    size = (truncation.apply_top_p(scores, top_p) > -torch.inf).sum(dim=-1)
    vocab = scores.shape[-1]
    h = torch.linspace(0.0, math.log(vocab), 400)
    least = (h - math.log(2) - (1 - top_p) * math.log(vocab)).exp()
    most = (h / (1 - top_p)).exp()
    with drawing(ax) as axes:
        axes.fill_between(
            h, least.clamp(1, vocab), most.clamp(1, vocab), color="C0", alpha=0.12
        )
        axes.plot(h, least.clamp(1, vocab), "--", color="C1", linewidth=1.5)
        axes.plot(h, most.clamp(1, vocab), ":", color="C2", linewidth=2)
        axes.plot(entropy, size, "o", color="C0", markersize=3, alpha=0.6)
        axes.set_yscale("log")
        axes.set_ylim(0.8, vocab * 1.1)
        axes.set_xlim(-0.1, math.log(vocab))
        axes.set_xlabel("entropy $H$ of the step (nats)")
        axes.set_ylabel("tokens in the nucleus")
