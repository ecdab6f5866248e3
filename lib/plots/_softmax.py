"""Figures of chapter 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lib import distribution
from lib.plots._drawing import REST, bars, drawing, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def candidates(
    logits: Tensor, tokenizer: Any, *, top: int = 8, ax: Axes | None = None
) -> None:
    """Bars: the most probable next tokens, and all others as one.

    Args:
        logits: float tensor ``(vocab,)``.
        tokenizer: turns ids into text.
        top: how many tokens get a bar of their own.
        ax: where to draw; None makes a figure and shows it.
    """
    probs = distribution.softmax(logits.detach().float().cpu())
    kept = probs.topk(min(top, len(probs)))
    names = [visible(tokenizer.decode([token])) for token in kept.indices.tolist()]
    values = kept.values.tolist()
    rest = len(probs) - len(values)
    with drawing(ax, rows=len(values) + bool(rest)) as axes:
        bars(axes, names, values)
        if rest:
            left = max(0.0, 1.0 - sum(values))
            bars(axes, [f"{rest:,} others"], [left], below=len(names), color=REST)
        axes.set_xlabel("probability")
        axes.set_xlim(0, 1.12 * max(axes.get_xlim()[1] / 1.05, 1e-3))


def surprisal(
    tokens: Sequence[str], nats: Tensor | Sequence[float], *, ax: Axes | None = None
) -> None:
    """Bars: what each token of a text cost, read from top to bottom.

    Args:
        tokens: the text's tokens, those that were predicted.
        nats: -log p of each, and the line is their mean.
        ax: where to draw; None makes a figure and shows it.
    """
    values = [float(value) for value in nats]
    if len(values) != len(tokens):
        raise ValueError(
            f"nats has {len(values)} numbers for {len(tokens)} tokens; "
            "allowed is one a token"
        )
    mean = sum(values) / len(values)
    with drawing(ax, rows=len(values)) as axes:
        bars(axes, [visible(token) for token in tokens], values, digits=2)
        axes.axvline(mean, color="C1", linestyle="--", linewidth=1.5)
        axes.set_xlabel(r"$-\log\,p(x_t\,|\,x_{<t})$  (nats)")
        axes.set_xlim(0, 1.12 * max(values))


def soft_argmax(gap: float = 1.0, *, ax: Axes | None = None) -> None:
    """Curves: expected score, entropy and their sum, for two tokens.

    Args:
        gap: by how much the first token's logit exceeds the second's.
        ax: where to draw; None makes a figure and shows it.
    """
    q = torch.linspace(0, 1, 401)
    logits = torch.stack([q, 1 - q], dim=-1).log()
    entropy = distribution.entropy(logits)
    score = q * gap
    best = float(torch.sigmoid(torch.tensor(gap)))
    with drawing(ax) as axes:
        axes.plot(q, score, color="C1", linestyle="--", label="score")
        axes.plot(q, entropy, color="C2", linestyle=":", label="entropy")
        axes.plot(q, score + entropy, color="C0", label="score + entropy")
        top = float(torch.tensor([gap, 0.0]).logsumexp(0))
        axes.plot([best, best], [0, top], color="C0", linewidth=1)
        axes.plot([best], [top], "o", color="C0")
        axes.plot([1.0 if gap > 0 else 0.0], [max(gap, 0.0)], "s", color="C1")
        axes.set_xlabel("$q$, probability of the first token")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(min(0.0, gap), top * 1.12)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.02))


def one_logit(
    logits: Tensor,
    words: Sequence[str],
    word: str,
    *,
    reach: float = 6.0,
    ax: Axes | None = None,
) -> None:
    """Curves: all probabilities while one logit moves and the others stand still.

    Args:
        logits: float tensor ``(vocab,)``.
        words: the vocabulary.
        word: the one whose logit moves.
        reach: how far to move it, to either side.
        ax: where to draw; None makes a figure and shows it.
    """
    moved = list(words).index(word)
    shift = torch.linspace(-reach, reach, 241)
    rows = logits.detach().float().repeat(len(shift), 1)
    rows[:, moved] += shift
    probs = distribution.softmax(rows)
    order = logits.argsort(descending=True).tolist()
    named = [v for v in order if v != moved][:3]
    with drawing(ax) as axes:
        for v in order:
            if v != moved and v not in named:
                axes.plot(shift, probs[:, v], color=REST, linewidth=1)
        for v, line in zip(named, ("--", ":", "-."), strict=False):
            axes.plot(
                shift, probs[:, v], linestyle=line, color=f"C{named.index(v) + 1}"
            )
            axes.annotate(
                words[v],
                (-reach, float(probs[0, v])),
                xytext=(4, 3),
                textcoords="offset points",
            )
        axes.plot(shift, probs[:, moved], color="C0", linewidth=2.5)
        axes.annotate(
            word,
            (reach, float(probs[-1, moved])),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
        )
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set_xlabel(f"change of one logit, that of “{word}”")
        axes.set_ylabel("probability")
        axes.set_xlim(-reach, reach)
        axes.set_ylim(0, 1.08)
