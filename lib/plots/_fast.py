"""Figures of chapter 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lib.plots._drawing import REST, drawing, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PALE = "#c6d9ea"


def step_parts(
    steps: Mapping[str, Mapping[str, float]], *, ax: Axes | None = None
) -> None:
    """Bars: what share of a step each part takes; the step's time stands behind.

    Args:
        steps: for each bar, its parts in order and their times in seconds; all bars
            have the same parts.
        ax: where to draw; None makes a figure and shows it.
    """
    parts = list(next(iter(steps.values())))
    with drawing(ax, rows=len(steps) + 4) as axes:
        left = np.zeros(len(steps))
        totals = np.array([sum(times.values()) for times in steps.values()])
        for part in parts:
            share = np.array([times[part] for times in steps.values()]) / totals
            axes.barh(range(len(steps)), share, height=0.72, left=left, label=part)
            left += share
        for place, total in enumerate(totals):
            axes.annotate(
                _duration(total),
                (1.0, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(steps)), list(steps))
        axes.set_ylim(len(steps) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the step's time")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=3,
            borderaxespad=0.2,
            columnspacing=1.2,
        )


def _duration(seconds: float) -> str:
    """Two significant digits, in milliseconds or microseconds."""
    size, unit = (1e-3, "ms") if seconds >= 1e-3 else (1e-6, "µs")
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"


def zipf_nucleus(
    exponents: Sequence[float], top_p: float = 0.9, *, ax: Axes | None = None
) -> None:
    """Curves: tokens in the nucleus of Zipf's law, as the vocabulary grows.

    Args:
        exponents: a curve for each, p proportional to place^-exponent.
        top_p: the mass that the nucleus holds.
        ax: where to draw; None makes a figure and shows it.
    """
    vocabs = np.unique(np.logspace(2, 6, 81).round().astype(int))
    places = np.arange(1.0, vocabs[-1] + 1)
    with drawing(ax) as axes:
        for number, exponent in enumerate(exponents):
            mass = np.cumsum(places**-exponent)
            sizes = 1 + np.searchsorted(mass, top_p * mass[vocabs - 1])
            axes.plot(vocabs, sizes, color=f"C{number}")
            axes.annotate(
                f"{exponent:g}",
                (float(vocabs[-1]), float(sizes[-1])),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=f"C{number}",
            )
        axes.plot(vocabs, vocabs, color=REST, linewidth=1, linestyle=":")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(100, 1e6)
        axes.set_ylim(1, 1e6)
        axes.set_xlabel("vocabulary V")
        axes.set_ylabel("tokens kept")


def blocks(
    logits: Sequence[float],
    names: Sequence[str],
    *,
    count: int,
    size: int,
    ax: Axes | None = None,
) -> None:
    """Bars in blocks, each block's maximum dark, and the cut that they give.

    Args:
        logits: one a token.
        names: the tokens' texts.
        count: how many best tokens are wanted.
        size: tokens a block; the last block may be shorter.
        ax: where to draw; None makes a figure and shows it.
    """
    z = np.asarray(logits, dtype=float)
    starts = range(0, len(z), size)
    largest = [start + int(z[start : start + size].argmax()) for start in starts]
    if count > len(largest):
        raise ValueError(
            f"count={count} must be at most {len(largest)}, the number of blocks"
        )
    cut = sorted(z[largest])[-count]
    colors = ["C0" if v in largest else _PALE for v in range(len(z))]
    with drawing(ax) as axes:
        axes.bar(range(len(z)), z, color=colors, width=0.72)
        axes.axhline(cut, color="C1", linestyle="--", linewidth=1.5)
        for start in list(starts)[1:]:
            axes.axvline(start - 0.5, color=REST, linewidth=1)
        axes.set_xticks(range(len(z)), [visible(name) for name in names])
        axes.set_ylabel("logit")
        axes.grid(False, axis="x")
        axes.tick_params(axis="x", length=0)


def queue(
    kernels: int,
    launch: float,
    run: float,
    python: float,
    *,
    steps: int = 3,
    ax: Axes | None = None,
) -> None:
    """Two timelines of a host and its device: never waiting, and a read every step.

    Args:
        kernels: operations a step.
        launch: time for which the host is busy with one of them.
        run: time for which the device is busy with one of them.
        python: the host's time between two steps.
        steps: how many to draw.
        ax: where to draw; None makes a figure and shows it.
    """
    lanes = ["host", "device", "host, reading", "device"]
    with drawing(ax, rows=8) as axes:
        for place, reads in ((0, False), (2, True)):
            host, device = timeline(kernels, launch, run, python, steps, reads=reads)
            for lane, spans in ((place, host), (place + 1, device)):
                for number, pieces in enumerate(spans):
                    axes.broken_barh(
                        [(begin, end - begin) for begin, end in pieces],
                        (lane - 0.36, 0.72),
                        color=f"C{number}",
                        edgecolor="white",
                        linewidth=0.4,
                    )
        axes.axhline(1.5, color=REST, linewidth=1)
        axes.set_yticks(range(4), lanes)
        axes.set_ylim(3.6, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("time")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)


Spans = list[list[tuple[float, float]]]


def timeline(
    kernels: int, launch: float, run: float, python: float, steps: int, *, reads: bool
) -> tuple[Spans, Spans]:
    """When host and device are busy: for each step a list of (begin, end).

    The device runs the kernels in order, each as soon as it has been launched and the
    one before it has ended. A host that reads waits for the last one of each step.
    """
    host: Spans = []
    device: Spans = []
    now = free = 0.0
    for _ in range(steps):
        host.append([])
        device.append([])
        for busy in [python] + [launch] * kernels:
            host[-1].append((now, now + busy))
            now += busy
            if len(host[-1]) > 1:  # Python's work launches nothing
                begin = max(now, free)
                free = begin + run
                device[-1].append((begin, free))
        if reads:
            now = max(now, free)
    return host, device


def roofline(
    operations: float,
    bandwidth: float,
    programs: Mapping[str, Mapping[int, tuple[float, float]]],
    *,
    ax: Axes | None = None,
) -> None:
    """The roof over all programs on a machine, and where some of them stand.

    Args:
        operations: floating-point operations a second, at best.
        bandwidth: bytes read a second, at best.
        programs: for each its name, and by batch its operations a byte and its
            operations a second.
        ax: where to draw; None makes a figure and shows it.
    """
    from matplotlib.ticker import LogLocator

    ridge = operations / bandwidth
    intensities = [x for points in programs.values() for x, _ in points.values()]
    low = min([0.2, *intensities]) / 2
    high = max([ridge * 4, *intensities]) * 2
    with drawing(ax) as axes:
        axes.plot(
            [low, ridge, high],
            [low * bandwidth / 1e9, operations / 1e9, operations / 1e9],
            color="C0",
        )
        axes.axvline(ridge, color=REST, linewidth=1, linestyle=":")
        for number, (name, points) in enumerate(programs.items()):
            x, y = zip(*points.values(), strict=True)
            axes.plot(
                x,
                [speed / 1e9 for speed in y],
                "os"[number % 2],
                color=f"C{number + 1}",
                markersize=5,
                label=name,
            )
            if number == 0:
                # Others would lie on the points of the next program.
                shown = [*points] if len(programs) == 1 else [*points][:: len(x) - 1]
                for batch in shown:
                    intensity, speed = points[batch]
                    axes.annotate(
                        str(batch),
                        (intensity, speed / 1e9),
                        xytext=(5, -11),
                        textcoords="offset points",
                        fontsize=9,
                    )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlim(low, high)
        axes.set_xlabel("operations per byte")
        axes.set_ylabel("billion operations per second")
        if len(programs) > 1:
            axes.legend(loc="upper left")
