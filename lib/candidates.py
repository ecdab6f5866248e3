"""Truncation on the few tokens that can be kept instead of the whole vocabulary.

Top-k and top-p keep a prefix of the ranked tokens. To find it, no vocabulary need be
ranked: a *cut* is enough, a logit below which no kept token lies. One look at each
token collects those above the cut, and the rule is applied to them alone. Every
function here has a dense twin, a public stage, to which tests hold it equal; a row for
which a cut cannot be trusted is *short*, and left to the dense stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.distribution import depths, temperature_stage
from lib.selection import masses
from lib.truncation import mass_to_reach

_MEMBERS = 32  # tokens in a group whose maximum is taken
_SPARE = 8  # so many more than k, for rounding may tie the token at a cut with others
_BLOCK = 64  # tokens in a block whose masses are summed
_SAMPLED = 3072  # tokens from which the tail's mass is estimated
_HEAD = 16  # the most probable of these, too few to tell how much mass there is
_CAUTION = 0.8  # of the mass that top-p removes: how much a cut removes
# How far two sums of masses in float32 may together be off, as a share of all mass.
# Each mass is off by 2^-23 of itself through exp, and by |z - max| 2^-24 through the
# difference. The second adds up to (H + log p_max) 2^-24 <= log(vocab) 2^-24 of all
# mass, which leaves room up to a vocabulary of a million.
_DOUBT = 2.0**-19

# On few numbers the time goes into calls, and a call of NumPy takes a fraction of one
# of PyTorch. The exponential is PyTorch's, so that it rounds as in the dense stages.
Array = npt.NDArray[Any]


class Whole(NamedTuple):
    """Rows from which nothing has been removed.

    Args:
        logits: ``(rows, vocab)``.
        temperatures: those that are still to be applied, in order.
    """

    logits: Tensor
    temperatures: tuple[float, ...] = ()


class Few(NamedTuple):
    """Rows from which all but a few tokens have been removed.

    Args:
        ids: token ids in ascending order, ``(rows, count)``.
        values: their logits; -inf in places that hold no token.
        masses: their ``exp(value - maximum)`` in float64; 0 once removed.
        short: True where tokens may be missing, ``(rows,)``.
        least: tokens with a lower value have been removed, ``(rows, 1)``.
    """

    ids: Array
    values: Array
    masses: Array
    short: Array
    least: Array | float = -np.inf


Candidates = Whole | Few
CandidateStage = Callable[[Candidates], Candidates]


def choose(logits: Tensor, stages: Sequence[CandidateStage], u: Tensor) -> Array:
    """Run stages on candidates and sample: int64 ``(rows,)``.

    Args:
        logits: float32 or float64 ``(rows, vocab)``, on the CPU.
        stages: in order.
        u: uniforms in [0, 1), ``(rows,)``.

    Returns:
        The tokens that the dense stages and ``sample`` give; -1 in rows that are left
        to these, among them all that hold NaN, +inf or no token.
    """
    kept: Candidates = Whole(logits.detach())
    luck = u.double().numpy()[:, None]
    # Rows that have ended may hold nothing, and below the lowest number is -inf.
    with np.errstate(invalid="ignore", over="ignore"):
        for stage in stages:
            kept = stage(kept)
        return (
            _sample_whole(kept, luck)
            if isinstance(kept, Whole)
            else _sample_few(kept, luck)
        )


def temperature_candidates(kept: Candidates, temperature: float) -> Candidates:
    """The twin of ``apply_temperature``; waits until it is known for which tokens."""
    if isinstance(kept, Whole):
        return Whole(kept.logits, (*kept.temperatures, temperature))
    values = np.where(kept.values < kept.least, -np.inf, kept.values)
    values = _scale(values, temperature)
    return Few(kept.ids, values, _masses(values), kept.short)


def top_k_candidates(kept: Candidates, top_k: int) -> Candidates:
    """The twin of ``apply_top_k``.

    Split the tokens into groups. The k largest of the groups' maxima are k tokens, so
    that the k-th of them is a cut, and one a little further down no tie. (Groups that
    are columns are compared row by row, many numbers at once.)
    """
    if isinstance(kept, Few):
        return _truncate(kept, _kth_largest(kept.values, top_k))
    rows, vocab = kept.logits.shape
    if top_k >= vocab:
        return kept
    logits = kept.logits.numpy()
    members = max(1, min(_MEMBERS, vocab // (4 * top_k)))
    groups = vocab // members
    grouped = logits[:, : members * groups].reshape(rows, members, groups)
    tops = grouped.max(axis=1)
    ids, values = _above(logits, _kth_largest(tops, top_k + _SPARE))
    values = reduce(_scale, kept.temperatures, values)
    few, beyond = _few(ids, values, _masses(values))
    # A maximum tells NaN and +inf, too; not all tokens need be in a group.
    top = logits[:, members * groups :].max(axis=-1, initial=-np.inf)
    few = few._replace(short=~np.isfinite(np.maximum(top, tops.max(axis=-1))))
    return _truncate(few, _kth_largest(few.values, top_k), beyond)


def top_p_candidates(kept: Candidates, top_p: float) -> Candidates:
    """The twin of ``apply_top_p``: the tail enters through its mass alone."""
    if top_p == 1.0:
        return kept
    share = mass_to_reach(top_p)
    if isinstance(kept, Few):
        ranked = _descending(kept.values)
        mass = _sums(_descending(kept.masses))
        return _truncate(kept, _at(ranked, mass >= share * mass[:, -1:]))
    logits = reduce(temperature_stage, kept.temperatures, kept.logits)
    every = masses(logits)
    total = every.sum(dim=-1, keepdim=True).numpy()
    cut = _tail_cut(logits, every.numpy(), _CAUTION * (1 - top_p) * total)
    ids, values = _above(logits.numpy(), cut)
    few, beyond = _few(ids, values, every.gather(-1, torch.from_numpy(ids)).numpy())
    ranked = _descending(few.values)
    mass = _sums(_masses(ranked))
    # The dense stage adds in another order, which makes a difference of at most:
    doubt = every.shape[-1] * np.finfo(np.float64).eps * total
    reached = mass >= share * total + doubt
    unsure = reached != (mass >= share * total - doubt)
    short = unsure.any(axis=-1) | ~reached[:, -1]
    return _truncate(few._replace(short=short), _at(ranked, reached), beyond)


def _tail_cut(logits: Tensor, every: Array, mass: Array) -> Array:
    """A logit below which about ``mass`` of the masses lies, ``(rows, 1)``.

    A sample says so, which misses the head of a distribution, but knows its tail.
    """
    stride = max(1, every.shape[-1] // _SAMPLED)
    sample = np.sort(every[:, ::stride], axis=-1)
    sample = sample[:, : max(1, sample.shape[-1] - _HEAD)].copy()
    begins = _at(sample, stride * _sums(sample) >= mass)
    depth: Array = np.log(np.maximum(begins, np.finfo(begins.dtype).tiny))
    top = logits.amax(dim=-1, keepdim=True).numpy()
    cut: Array = top + depth.astype(top.dtype)
    return cut


def _above(logits: Array, cut: Array) -> tuple[Array, Array]:
    """The tokens at or above the cut: ids and logits, each ``(rows, count + 1)``.

    Rows with fewer tokens than others are filled up with -inf. The last column is a
    bound on all other logits, which is to be scaled and rounded as the tokens are.
    """
    cut = np.maximum(cut, np.finfo(logits.dtype).min)  # no removed tokens
    found = [np.flatnonzero(row) for row in logits >= cut]
    width = 1 + max(map(len, found))
    ids = np.zeros((len(found), width), np.int64)
    values = np.full((len(found), width), -np.inf, logits.dtype)
    for row, tokens in enumerate(found):
        ids[row, : len(tokens)] = tokens
        values[row, : len(tokens)] = logits[row, tokens]
    values[:, -1:] = np.nextafter(cut, -np.inf)
    return ids, values


def _few(ids: Array, values: Array, mass: Array) -> tuple[Few, Array]:
    """What ``_above`` has found, and the bound taken out of it, ``(rows, 1)``."""
    beyond = values[:, -1:].copy()
    values[:, -1] = -np.inf
    return Few(ids, values, mass, np.zeros(len(ids), np.bool_)), beyond


def _truncate(few: Few, threshold: Array, beyond: Array | None = None) -> Few:
    """Remove what is below the threshold.

    Where tokens that are not among these may reach the threshold, the row is short.
    """
    short = few.short
    if beyond is not None:
        short = short | ((threshold <= beyond) & (beyond > -np.inf))[:, 0]
    least = np.maximum(few.least, threshold)
    mass = few.masses * (few.values >= least)
    return Few(few.ids, few.values, mass, short, least)


def _sample_few(kept: Few, u: Array) -> Array:
    """The twin of ``sample``: removed tokens add exact zeros to the dense sum."""
    mass = _sums(kept.masses)
    tokens = _at(kept.ids, mass > u * mass[:, -1:])
    return np.where(kept.short, -1, tokens[:, 0])


def _sample_whole(kept: Whole, u: Array) -> Array:
    """The twin of ``sample`` on all tokens, in float32 as long as that decides.

    Masses are summed by blocks, and token by token in the block that u falls into.
    """
    *before, last = kept.temperatures or (1.0,)
    logits = reduce(temperature_stage, before, kept.logits)
    rows, vocab = logits.shape
    mass = logits.new_zeros((rows, -(-vocab // _BLOCK) * _BLOCK))
    # Below e^-80 there is nothing to weigh, and float32 would count on a hundred times
    # as slowly in numbers that it cannot hold in full.
    torch.exp(depths(logits, last).clamp_min_(-80.0), out=mass[:, :vocab])
    blocks = mass.view(rows, -1, _BLOCK)
    sums = blocks.sum(dim=-1, dtype=torch.float64).numpy()
    ends = _sums(sums)
    target = u * ends[:, -1:]
    row = np.arange(rows)
    block = (ends > target).argmax(axis=-1)
    begin = (ends - sums)[row, block, None]
    inside = begin + blocks.numpy()[row, block].cumsum(axis=-1, dtype=np.float64)
    token = block * _BLOCK + (inside > target).argmax(axis=-1)
    edges = np.concatenate([begin, inside], axis=-1)
    # "Not above", for NaN compares as false.
    unsure = ~(np.abs(edges - target) > _DOUBT * ends[:, -1:])
    return np.where(unsure.any(axis=-1), -1, token)


def _scale(values: Array, temperature: float) -> Array:
    """The twin of ``temperature_stage`` for rows that hold their maximum."""
    if temperature == 1.0:
        return values
    limits = np.finfo(values.dtype)
    divisor = min(max(temperature, float(limits.tiny)), float(limits.max))
    shifted = values - values.max(axis=-1, keepdims=True)
    scaled = np.maximum(shifted / values.dtype.type(divisor), limits.min)
    return np.asarray(np.minimum(scaled, values - limits.min))


def _masses(values: Array) -> Array:
    """The twin of ``masses`` for rows that hold their maximum."""
    wide = values.astype(np.float64, order="C")
    wide -= wide.max(axis=-1, keepdims=True)
    torch.from_numpy(wide).exp_()
    return wide


def _sums(mass: Array) -> Array:
    """Cumulative sums; PyTorch's are faster, and the order is the same."""
    sums: Array = torch.from_numpy(mass).cumsum(dim=-1).numpy()
    return sums


def _descending(values: Array) -> Array:
    # PyTorch refuses a reversed view, which a single column remains otherwise.
    return np.sort(values, axis=-1)[:, ::-1].copy()


def _kth_largest(values: Array, k: int) -> Array:
    """The k-th largest value of each row, or the least where there are fewer."""
    place = max(0, values.shape[-1] - k)
    return np.partition(values, place, axis=-1)[:, place, None]


def _at(values: Array, reached: Array) -> Array:
    """The first value of each row at which an aim is reached; else the last."""
    reached[:, -1] = True
    return values[np.arange(len(values)), reached.argmax(axis=-1), None]
