"""What hypothesis draws for the tests: logits of many kinds."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

INF = float("inf")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# Multiples of 1/4 in a small range tie often, and are exact in every dtype.
COARSE = st.integers(-16, 16).map(lambda quarters: quarters / 4)
FINE = st.floats(-30, 30, width=32)
EXTREME = st.sampled_from([-3e38, -1e30, -6e4, -88.0, 0.0, 1e-30, 88.0, 6e4, 3e38])

VOCAB = st.integers(1, 10)
LEADING = st.sampled_from([(), (1,), (3,), (2, 2)])


@st.composite
def logits(
    draw,
    numbers=COARSE | FINE,
    *,
    dtype=torch.float32,
    vocab=VOCAB,
    leading=LEADING,
    removed=True,
):
    """Logits ``(..., vocab)``; some may be -inf, but no row is -inf throughout."""
    shape = (*draw(leading), draw(vocab))
    count = int(torch.tensor(shape).prod())
    cell = numbers | st.just(-INF) if removed else numbers
    values = draw(st.lists(cell, min_size=count, max_size=count))
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype).view(shape)
    dead = (tensor == -INF).all(dim=-1)
    tensor[..., 0] = tensor[..., 0].masked_fill(dead, 0.0)
    return tensor


def matrices(numbers=COARSE | FINE, **kwargs):
    """Logits ``(rows, vocab)``."""
    return logits(numbers, leading=st.sampled_from([(1,), (3,)]), **kwargs)


def kept(tensor):
    """True where a token has not been removed."""
    return tensor > -INF


def same(a, b):
    """Equal dtype, shape and values, bit for bit."""
    return a.dtype == b.dtype and torch.equal(a, b)


def each_row(tensor):
    """The rows of ``(..., vocab)`` as lists of float64."""
    return tensor.double().reshape(-1, tensor.shape[-1]).tolist()
