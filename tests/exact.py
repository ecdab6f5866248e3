"""Exact laws, written from the definitions in float64, and chi² tests against them.

A chi² test here rejects a correct sampler with probability ``FALSE_ALARM``, and each
one states, through ``power``, the chance with which it rejects a given wrong one.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6
POWER = 0.99


def next_law(z, temperature=1.0, top_k=0, top_p=1.0):
    """Probabilities of the next token after temperature, top-k and top-p."""
    z = np.asarray(z, dtype=np.float64) / temperature
    keep = z > -np.inf
    if top_k:
        keep &= np.array([(z > x).sum() < top_k for x in z])
    p = normalised(np.where(keep, z, -np.inf))
    if top_p < 1:
        keep &= np.array([p[z > x].sum() < top_p - 1e-12 for x in z])
    return normalised(np.where(keep, z, -np.inf))


def normalised(z):
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def sequence_law(world, eos=None, **settings):
    """Probability of every sequence of a world, one factor a step."""
    import torch

    law = []
    for sequence in itertools.product(range(world.vocab_size), repeat=world.length):
        p = 1.0
        for t, token in enumerate(sequence):
            if eos in sequence[:t]:
                p *= token == eos
            else:
                prefix = torch.tensor([sequence[:t]], dtype=torch.long)
                p *= next_law(world.next_logits(prefix)[0].numpy(), **settings)[token]
        law.append(p)
    return np.array(law)


def numbers(world, tokens):
    """Which sequence, in lexicographic order, each row of tokens is."""
    powers = world.vocab_size ** np.arange(world.length - 1, -1, -1)
    return (np.asarray(tokens) * powers).sum(axis=-1)


def cells(law, n):
    """Pool outcomes, rarest first, until each cell expects at least 5 of n draws.

    Returns:
        The cell of each outcome; -1 where the probability is 0.
    """
    cell = np.full(len(law), -1)
    current, mass = 0, 0.0
    order = [v for v in np.argsort(law, kind="stable") if law[v] > 0]
    for place, v in enumerate(order):
        cell[v] = current
        mass += law[v]
        rest = law[order[place + 1 :]].sum()
        if mass * n >= 5 and rest * n >= 5:
            current, mass = current + 1, 0.0
    return cell


def pooled(weights, cell):
    return np.bincount(cell[cell >= 0], weights=weights[cell >= 0])


def p_value(outcomes, law):
    """Chi² of drawn outcomes (0 ... V-1) against their exact probabilities."""
    counts = np.bincount(np.asarray(outcomes).ravel(), minlength=len(law))
    n, cell = counts.sum(), cells(law, counts.sum())
    if counts[cell < 0].any():
        return 0.0  # something impossible was drawn
    expected = n * pooled(law, cell)
    assert len(expected) > 1
    assert expected.min() >= 5
    statistic = ((pooled(counts, cell) - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(expected) - 1))


def power(wrong, law, n, experiments=1000):
    """A lower bound for the chance that n draws from ``wrong`` are rejected.

    Simulated, with confidence 0.999: 1,000 rejections in 1,000 experiments show a
    power of 0.993. (Noncentral chi² claims more than there is where outcomes are
    dropped: their cells contribute no variance. For a law without its rarest 1 %, it
    says 0.52 where 0.22 is true.)
    """
    cell = cells(law, n)
    p, q = pooled(law, cell), pooled(wrong, cell)
    impossible = max(0.0, 1.0 - q.sum())
    generator = np.random.default_rng(0)
    counts = generator.multinomial(n, [*q, impossible], size=experiments)
    statistic = ((counts[:, :-1] - n * p) ** 2 / (n * p)).sum(axis=1)
    limit = stats.chi2.isf(FALSE_ALARM, len(p) - 1)
    rejected = int(((statistic > limit) | (counts[:, -1] > 0)).sum())
    if rejected == 0:
        return 0.0
    return float(stats.beta.ppf(0.001, rejected, experiments - rejected + 1))


def dropping(law, mass=0.01):
    """The law after its rarest outcomes have lost ``mass``, all but the last wholly."""
    order = np.argsort(law, kind="stable")
    before = law[order].cumsum() - law[order]
    wrong = law.copy()
    wrong[order] -= np.clip(mass - before, 0.0, law[order])
    return wrong / wrong.sum()
