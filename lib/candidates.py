"""Truncation and sampling on the few best tokens instead of the whole vocabulary.

Top-k and top-p keep a prefix of the ranked tokens, so that the tail need not be
sorted: it is enough to know the best few, and how much mass lies beyond them. Every
function here has a dense twin, a public stage, to which tests hold it equal. Where a
row needs more candidates than were taken (a flat distribution, a tie that goes on),
the row is done again with more, in the end with all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib.distribution import temperature_stage
from lib.selection import accumulate_in, sample_stage
from lib.truncation import crossing_rank

_GROWTH = 16


@dataclass(frozen=True)
class Candidates:
    """The best tokens of each row, as the stages so far have left them.

    Args:
        values: their logits in descending order, ``(rows, K)``; -inf once removed.
        ids: their token ids, ``(rows, K)``.
        dense: computes the whole rows, ``(rows, vocab)``; None when all that is not
            among the candidates is removed.
        short: ``(rows,)``, True where K candidates did not suffice.
    """

    values: Tensor
    ids: Tensor
    dense: Callable[[], Tensor] | None
    short: Tensor


CandidateStage = Callable[[Candidates], Candidates]


def choose(
    logits: Tensor, stages: Sequence[CandidateStage], u: Tensor, count: int
) -> Tensor:
    """Run stages on the ``count`` best tokens and sample: int64 ``(rows,)``.

    Args:
        logits: float tensor ``(rows, vocab)``.
        stages: in order; at least one must truncate.
        u: uniforms in [0, 1), ``(rows,)``.
        count: how many candidates to begin with.

    Returns:
        The tokens that the dense stages and ``sample`` give; -1 in rows for which the
        vocabulary would have to be ranked as a whole.
    """
    if count >= logits.shape[-1]:
        return torch.full(u.shape, -1, dtype=torch.long, device=logits.device)
    tokens = _attempt(logits, stages, u, count)
    short = (tokens < 0).nonzero().flatten()
    if len(short):
        tokens[short] = choose(
            logits[short], stages, u[short.to(u.device)], count * _GROWTH
        )
    return tokens


def _attempt(
    logits: Tensor, stages: Sequence[CandidateStage], u: Tensor, count: int
) -> Tensor:
    """One try with ``count`` candidates; -1 in rows for which they do not suffice."""
    values, ids = logits.topk(count, dim=-1)
    short = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    kept = Candidates(values, ids, lambda: logits, short)
    for stage in stages:
        kept = stage(kept)
    if kept.dense is not None:  # no stage has cut the tail off
        kept = _all_short(kept)
    # Sampling runs in id order, so that rounding is that of the dense sum.
    ids, order = kept.ids.sort(dim=-1)
    place = sample_stage(kept.values.gather(-1, order), u)
    return ids.gather(-1, place[:, None]).squeeze(-1).masked_fill(kept.short, -1)


def temperature_candidates(kept: Candidates, temperature: float) -> Candidates:
    """The twin of ``apply_temperature``: the first candidate is the row's maximum."""
    dense = kept.dense
    return replace(
        kept,
        values=temperature_stage(kept.values, temperature),
        dense=dense and (lambda: temperature_stage(dense(), temperature)),
    )


def top_k_candidates(kept: Candidates, top_k: int) -> Candidates:
    """The twin of ``apply_top_k``."""
    width = kept.values.shape[-1]
    if top_k > width:
        return kept if kept.dense is None else _all_short(kept)
    return _cut(kept, kept.values[:, top_k - 1 : top_k])


def top_p_candidates(kept: Candidates, top_p: float) -> Candidates:
    """The twin of ``apply_top_p``: the tail enters through its mass alone."""
    if top_p == 1.0:
        return kept
    ranked = accumulate_in(kept.values)
    total = None
    if kept.dense is not None:
        dense = accumulate_in(kept.dense())
        total = (dense - ranked[:, :1]).exp().sum(dim=-1, keepdim=True)
    rank = crossing_rank(ranked, top_p, total)
    # Where the mass is not reached, the last candidate's class goes on for all we know.
    rank = rank.clamp_max(kept.values.shape[-1] - 1).to(kept.ids.device)
    return _cut(kept, kept.values.gather(-1, rank))


def _all_short(kept: Candidates) -> Candidates:
    return replace(kept, short=torch.ones_like(kept.short))


def _cut(kept: Candidates, threshold: Tensor) -> Candidates:
    """Remove what is below the threshold; a tie at the last place may go on beyond."""
    short = kept.short
    if kept.dense is not None:
        goes_on = (kept.values[:, -1:] == threshold) & (threshold > -torch.inf)
        short = short | goes_on.flatten()
    values = kept.values.masked_fill(kept.values < threshold, -torch.inf)
    return Candidates(values, kept.ids, None, short)
