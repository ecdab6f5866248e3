"""Figures of chapter 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lib import distribution
from lib.pipeline import SamplingSettings, build_pipeline
from lib.plots._drawing import REST, drawing, visible
from lib.worlds import World

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = ("-", "--", ":", "-.")


def _grid(low: float, high: float, count: int = 161) -> Tensor:
    """Temperatures, evenly spaced on a logarithmic scale."""
    ends = torch.tensor([low, high], dtype=torch.float64).log()
    return torch.linspace(float(ends[0]), float(ends[1]), count).double().exp()


def _at(logits: Tensor, temperatures: Tensor) -> Tensor:
    """Logits ``(..., vocab)`` at every temperature, ``(temperatures, ..., vocab)``."""
    wide = logits.detach().double().cpu()
    rows = [distribution.apply_temperature(wide, float(t)) for t in temperatures]
    return torch.stack(rows)


def _temperature_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("temperature $T$")


def at_temperatures(
    logits: Tensor,
    tokenizer: Any,
    temperatures: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    top: int = 4,
    ax: Axes | None = None,
) -> None:
    """Bars: the most probable next tokens, each at several temperatures.

    Args:
        logits: float tensor ``(vocab,)``.
        tokenizer: turns ids into text.
        temperatures: one bar each, from top to bottom.
        top: how many tokens get bars of their own.
        ax: where to draw; None makes a figure and shows it.
    """
    probs = _at(logits, torch.tensor(temperatures)).softmax(-1)
    best = logits.detach().float().cpu().topk(min(top, logits.shape[-1])).indices
    names = [visible(tokenizer.decode([token])) for token in best.tolist()]
    values = probs[:, best]
    rest = logits.shape[-1] - len(names)
    if rest:
        names.append(f"{rest:,} others")
        left = (1 - values.sum(-1, keepdim=True)).clamp_min(0)
        values = torch.cat([values, left], dim=-1)
    height = 0.84 / len(temperatures)
    with drawing(ax, rows=2 + round(0.75 * len(names) * len(temperatures))) as axes:
        for number, temperature in enumerate(temperatures):
            offset = (number - (len(temperatures) - 1) / 2) * height
            bars = axes.barh(
                [place + offset for place in range(len(names))],
                values[number].tolist(),
                height=0.88 * height,
                color=f"C{number}",
                label=f"$T = {temperature:g}$",
            )
            shown = [f"{value:.3f}" for value in values[number].tolist()]
            axes.bar_label(bars, shown, padding=3, fontsize=8.5)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("probability")
        axes.set_xlim(0, 1.13 * float(values.max()))
        axes.legend(loc="center right", bbox_to_anchor=(1, 0.42))


def frontier(
    logits: Tensor,
    temperatures: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    ax: Axes | None = None,
) -> None:
    """Every distribution as a point, entropy against mean score, and the best ones.

    Args:
        logits: float tensor ``(vocab,)``.
        temperatures: where to mark the curve and draw its tangent, of slope -T.
        ax: where to draw; None makes a figure and shows it.
    """
    z = logits.detach().double().cpu()
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.3, 7, 1200).double()[:, None]
    noise = torch.randn(1200, len(z), generator=generator, dtype=torch.float64)
    others = torch.cat([(spread * noise).softmax(-1), torch.eye(len(z)).double()])

    def place(probs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.special.entr(probs).sum(-1), probs @ z

    along = _grid(0.05, 200)
    with drawing(ax) as axes:
        axes.plot(*place(others), ".", color=REST, markersize=2)
        worst = place(_at(-z, along).softmax(-1))
        axes.plot(*worst, color=REST, linestyle=":", linewidth=1.4)
        axes.plot(*place(_at(z, along).softmax(-1)), color="C0")
        for number, temperature in enumerate(temperatures):
            (h,), (score,) = place(_at(z, torch.tensor([temperature])).softmax(-1))
            color = f"C{number + 1}"
            ends = torch.stack([h - 0.6, h + 0.6])
            slope = score - temperature * (ends - h)
            axes.plot(ends, slope, color=color, linestyle="--", linewidth=1.4)
            axes.plot([h], [score], "o", color=color)
            axes.annotate(
                f"$T = {temperature:g}$",
                (float(h), float(score)),
                xytext=(7, 5),
                textcoords="offset points",
            )
        axes.set_xlabel("entropy of $q$ (nats)")
        axes.set_ylabel("mean score of $q$")
        axes.set_xlim(-0.06, 1.06 * float(torch.tensor(len(z)).log()))
        axes.set_ylim(float(z.min()) - 0.2, 1.1 * float(z.max()))


def along_temperature(
    logits: Tensor,
    words: Sequence[str],
    *,
    named: int = 3,
    low: float = 0.1,
    high: float = 100.0,
    ax: Axes | None = None,
) -> None:
    """Curves: every probability as the temperature rises, its highest point marked.

    Args:
        logits: float tensor ``(vocab,)``.
        words: the vocabulary.
        named: how many of the best words get a name and a colour.
        low: the lowest temperature.
        high: the highest temperature.
        ax: where to draw; None makes a figure and shows it.
    """
    along = _grid(low, high, 401)
    probs = _at(logits, along).softmax(-1)
    order = logits.argsort(descending=True, stable=True).tolist()
    with drawing(ax) as axes:
        for v in order[named:]:
            axes.plot(along, probs[:, v], color=REST, linewidth=1)
        for rank, v in enumerate(order[:named]):
            color, line = f"C{rank}", _LINES[rank % len(_LINES)]
            axes.plot(along, probs[:, v], color=color, linestyle=line)
            peak = int(probs[:, v].argmax())
            inside = 0 < peak < len(along) - 1
            if inside:
                axes.plot([along[peak]], [probs[peak, v]], "o", color=color)
            # The name stands beside the way up, or down if there is no way up.
            flank = (
                probs[:, v] > 0.7 * probs[peak, v]
                if inside
                else (probs[:, v] < 0.8 * probs[0, v])
            )
            at = int(flank.int().argmax())
            axes.annotate(
                words[v],
                (float(along[at]), float(probs[at, v])),
                xytext=(-4, 2) if inside else (5, 5),
                textcoords="offset points",
                ha="right" if inside else "left",
                color=color,
            )
        axes.axhline(1 / len(order), color="#555555", linewidth=0.8)
        _temperature_axis(axes, low, high)
        axes.set_ylabel("probability")
        axes.set_ylim(0, 1.05)


def step_or_text(
    world: World,
    texts: Mapping[str, Sequence[int]],
    *,
    low: float = 0.1,
    high: float = 10.0,
    ax: Axes | None = None,
) -> None:
    """Curves: texts under the temperature of each step, and under that of the text.

    Args:
        world: an enumerable world.
        texts: the texts to follow, by name.
        low: the lowest temperature.
        high: the highest temperature.
        ax: where to draw; None makes a figure and shows it.
    """
    along = _grid(low, high, 61)
    stepwise = torch.stack(
        [
            world.sequence_law(
                build_pipeline(SamplingSettings(do_sample=True, temperature=float(t)))
            )
            for t in along
        ]
    )
    whole = _at(world.sequence_law().log(), along).softmax(-1)
    listed = world.sequences().tolist()
    with drawing(ax) as axes:
        for number, (name, text) in enumerate(texts.items()):
            place, color = listed.index(list(text)), f"C{number}"
            axes.plot(along, whole[:, place], color=color, label=f"{name}: the text")
            axes.plot(
                along,
                stepwise[:, place],
                color=color,
                linestyle="--",
                label=f"{name}: each step",
            )
        axes.axvline(1, color="#555555", linewidth=0.8)
        _temperature_axis(axes, low, high)
        axes.set_ylabel("probability")
        axes.set_ylim(0, 1.05)
        axes.legend(loc="upper right")


def entropy_along(
    logits: Tensor,
    *,
    low: float = 0.03,
    high: float = 30.0,
    ax: Axes | None = None,
) -> None:
    """Curves: the entropy of several steps as the temperature rises, and their mean.

    Args:
        logits: float tensor ``(steps, vocab)``.
        low: the lowest temperature.
        high: the highest temperature.
        ax: where to draw; None makes a figure and shows it.
    """
    along = _grid(low, high, 61)
    entropies = distribution.entropy(_at(logits, along))
    most = float(torch.tensor(logits.shape[-1]).log())
    with drawing(ax) as axes:
        for step in range(entropies.shape[1]):
            label = "one step" if step == 0 else None
            axes.plot(along, entropies[:, step], color=REST, linewidth=1, label=label)
        axes.plot(along, entropies.mean(-1), color="C0", label="their mean")
        axes.axhline(most, color="C1", linestyle="--", label=r"$\log V$")
        axes.axvline(1, color="#555555", linewidth=0.8)
        _temperature_axis(axes, low, high)
        axes.set_ylabel("entropy (nats)")
        axes.set_ylim(0, 1.06 * most)
        axes.legend(loc="center left")
