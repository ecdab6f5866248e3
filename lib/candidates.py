"""Truncation on the few tokens that can be kept instead of the whole vocabulary.

Top-k and top-p keep a prefix of the ranked tokens. To find it, no vocabulary need be
ranked: a *cut* is enough, a logit below which no kept token lies. One look at each
token collects those above the cut, and the rule is applied to them alone. Every
function here has a dense twin, a public stage, to which tests hold it equal; a row for
which a cut cannot be trusted is *short*, and left to the dense stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.distribution import temperature_stage
from lib.selection import masses
from lib.truncation import mass_to_reach

_BLOCK = 64  # tokens a block: few enough blocks, and each is read at memory speed
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


@dataclass(frozen=True)
class Whole:
    """Rows from which nothing has been removed.

    Args:
        logits: ``(rows, vocab)``.
        temperatures: those that are still to be applied, in order.
    """

    logits: Tensor
    temperatures: tuple[float, ...] = ()

    def scaled(self, logits: Tensor) -> Tensor:
        """Apply the temperatures to logits among which each row's maximum is."""
        for temperature in self.temperatures:
            logits = temperature_stage(logits, temperature)
        return logits


@dataclass(frozen=True)
class Few:
    """Rows from which all but a few tokens have been removed.

    Args:
        ids: the token ids, ascending, ``(rows, count)``.
        values: their logits; -inf once removed.
        masses: their ``exp(value - maximum)`` in float64; 0 once removed.
        short: ``(rows,)``, True where tokens may be missing.
    """

    ids: Array
    values: Array
    masses: Array
    short: Array


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
        to these.
    """
    kept: Candidates = Whole(logits.detach())
    for stage in stages:
        kept = stage(kept)
    luck = u.double().numpy()[:, None]
    if isinstance(kept, Whole):
        return _sample_whole(kept, luck)
    # Removed tokens add exact zeros to the dense sum: both round alike.
    mass = kept.masses.cumsum(axis=-1)
    tokens = _at(kept.ids, mass > luck * mass[:, -1:])
    return np.where(kept.short, -1, tokens[:, 0])


def temperature_candidates(kept: Candidates, temperature: float) -> Candidates:
    """The twin of ``apply_temperature``; waits until it is known for which tokens."""
    if isinstance(kept, Whole):
        return Whole(kept.logits, (*kept.temperatures, temperature))
    scaled = temperature_stage(torch.from_numpy(kept.values), temperature)
    return Few(kept.ids, scaled.numpy(), masses(scaled).numpy(), kept.short)


def top_k_candidates(kept: Candidates, top_k: int) -> Candidates:
    """The twin of ``apply_top_k``.

    The k largest of the blocks' maxima are k tokens: the k-th of them is a cut.
    """
    if isinstance(kept, Few):
        return _truncate(kept, _kth_largest(kept.values, top_k))
    rows, vocab = kept.logits.shape
    if top_k >= vocab:
        return kept
    block = max(1, min(_BLOCK, vocab // (4 * top_k)))
    blocks = kept.logits[:, : vocab // block * block].view(rows, -1, block)
    few, beyond = _above(kept, _kth_largest(blocks.amax(dim=-1).numpy(), top_k))
    return _truncate(few, _kth_largest(few.values, top_k), beyond)


def top_p_candidates(kept: Candidates, top_p: float) -> Candidates:
    """The twin of ``apply_top_p``: the tail enters through its mass alone."""
    if top_p == 1.0:
        return kept
    share = mass_to_reach(top_p)
    if isinstance(kept, Few):
        ranked, mass = _ranked(kept)
        return _truncate(kept, _at(ranked, mass >= share * mass[:, -1:]))
    whole = Whole(kept.scaled(kept.logits))
    every = masses(whole.logits).numpy()
    total = every.sum(axis=-1, keepdims=True)
    few, beyond = _above(whole, _tail_cut(whole, every, total * (1 - top_p)))
    ranked, mass = _ranked(few)
    # The dense stage adds in another order, which makes a difference of at most:
    doubt = every.shape[-1] * np.finfo(np.float64).eps * total
    reached = mass >= share * total + doubt
    unsure = reached != (mass >= share * total - doubt)
    short = unsure.any(axis=-1) | ~reached[:, -1]
    few = Few(few.ids, few.values, few.masses, short)
    return _truncate(few, _at(ranked, reached), beyond)


def _above(kept: Whole, cut: Array) -> tuple[Few, Array]:
    """The tokens at or above the cut, and a bound on all others, ``(rows, 1)``.

    Rows with fewer tokens than others are filled up with -inf.
    """
    logits = kept.logits.numpy()
    # Removed tokens are not wanted.
    cut = np.maximum(cut, np.finfo(logits.dtype).min)
    found = [np.flatnonzero(row) for row in logits >= cut]
    width = max(1, max(map(len, found)))
    # The last column is the bound, which is scaled, and rounded, as the tokens are.
    values = np.full((len(found), width + 1), -np.inf, logits.dtype)
    ids = np.zeros((len(found), width), np.int64)
    for row, tokens in enumerate(found):
        ids[row, : len(tokens)] = tokens
        values[row, : len(tokens)] = logits[row, tokens]
    with np.errstate(over="ignore"):  # below the lowest number is -inf
        values[:, -1:] = np.nextafter(cut, -np.inf)
    scaled = kept.scaled(torch.from_numpy(values))
    values, few = scaled.numpy(), scaled[:, :-1]
    none = np.zeros(len(found), np.bool_)
    return Few(ids, few.numpy(), masses(few).numpy(), none), values[:, -1:]


def _tail_cut(whole: Whole, every: Array, mass: Array) -> Array:
    """A logit below which a little less than ``mass`` lies, by the word of a sample.

    A sample misses the head of a distribution, and knows its tail.
    """
    stride = max(1, every.shape[-1] // _SAMPLED)
    sample = np.sort(every[:, ::stride], axis=-1)
    sample = sample[:, : max(1, sample.shape[-1] - _HEAD)]
    begins = _at(sample, stride * sample.cumsum(axis=-1) >= _CAUTION * mass)
    top = whole.logits.amax(dim=-1, keepdim=True).numpy()
    depth: Array = np.log(np.maximum(begins, np.finfo(begins.dtype).tiny))
    cut: Array = top + depth.astype(top.dtype)
    return cut


def _truncate(few: Few, threshold: Array, beyond: Array | None = None) -> Few:
    """Remove what is below the threshold.

    Where tokens that are not among these may reach the threshold, the row is short.
    """
    short = few.short
    if beyond is not None:
        short = short | ((threshold <= beyond) & (beyond > -np.inf))[:, 0]
    gone = few.values < threshold
    values = np.where(gone, -np.inf, few.values)
    return Few(few.ids, values, np.where(gone, 0.0, few.masses), short)


def _sample_whole(kept: Whole, u: Array) -> Array:
    """The twin of ``sample`` on all tokens, in float32 as long as that decides.

    Masses are summed by blocks, and token by token in the block that u falls into.
    """
    scaled = kept.scaled(kept.logits)
    rows, vocab = scaled.shape
    mass = scaled.new_zeros((rows, -(-vocab // _BLOCK) * _BLOCK))
    top = scaled.amax(dim=-1, keepdim=True)
    torch.exp(scaled.sub(top), out=mass[:, :vocab])
    blocks = mass.view(rows, -1, _BLOCK)
    ends = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1).numpy()
    target = u * ends[:, -1:]
    row = np.arange(rows)
    block = np.minimum((ends <= target).sum(axis=-1), ends.shape[-1] - 1)
    begin = np.where(block > 0, ends[row, block - 1], 0.0)[:, None]
    inside = begin + blocks.numpy()[row, block].cumsum(axis=-1, dtype=np.float64)
    place = (inside <= target).sum(axis=-1)
    edges = np.concatenate([begin, inside], axis=-1)
    unsure = np.abs(edges - target) <= _DOUBT * ends[:, -1:]
    return np.where(unsure.any(axis=-1), -1, block * _BLOCK + place)


def _ranked(few: Few) -> tuple[Array, Array]:
    """The values in descending order, and the mass up to each of them."""
    ranked = np.sort(few.values, axis=-1)[:, ::-1]
    return ranked, np.sort(few.masses, axis=-1)[:, ::-1].cumsum(axis=-1)


def _kth_largest(values: Array, k: int) -> Array:
    """The k-th largest value of each row, or the least where there are fewer."""
    place = max(0, values.shape[-1] - k)
    return np.partition(values, place, axis=-1)[:, place, None]


def _at(values: Array, reached: Array) -> Array:
    """The first value of each row where a sum has reached its aim, else the last."""
    place = np.minimum((~reached).sum(axis=-1), values.shape[-1] - 1)
    return values[np.arange(len(values)), place, None]
