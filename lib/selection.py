"""Selection: one token from the final distribution, greedy or sampled."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import _validate


def greedy(logits: Tensor) -> Tensor:
    r"""Choose the most probable token, :math:`\arg\max_v z_v`; at a tie the lowest id.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.

    Returns:
        Token ids, int64 ``(...)``.

    Raises:
        TypeError: ``logits`` is no float tensor.
        ValueError: NaN, +inf, or a row of -inf only.

    Defined in chapter 6, equation (6.1).
    """
    _validate.logits(logits, stage="greedy")
    return greedy_stage(logits)


def sample(logits: Tensor, u: Tensor) -> Tensor:
    r"""Draw a token by inverting the cumulative distribution at ``u``.

    The choice is the first token v, in id order, with
    :math:`\sum_{w \le v} e^{z_w} > u \sum_w e^{z_w}`, both sums in float64. A token
    of probability zero is never chosen.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.
        u: uniforms in [0, 1), float tensor ``(...)``, one a row.

    Returns:
        Token ids, int64 ``(...)``.

    Raises:
        TypeError: wrong types.
        ValueError: u outside [0, 1) or of another shape; NaN, +inf, or a row of
            -inf only.

    Source: Devroye (1986), chapter III.2. Defined in chapter 6, equation (6.8).
    """
    _validate.logits(logits, stage="sample")
    check_uniforms(u, logits)
    return sample_stage(logits, u)


def check_uniforms(u: Tensor, logits: Tensor) -> None:
    """Refuse anything but one uniform in [0, 1) for each row of ``logits``."""
    if not isinstance(u, Tensor) or not u.is_floating_point():
        kind = f"{u.dtype} tensor" if isinstance(u, Tensor) else type(u).__name__
        raise TypeError(f"sample: u must be a floating-point tensor, got {kind}")
    _validate.on_a_real_device("u", u)
    if u.shape != logits.shape[:-1]:
        raise ValueError(
            f"sample: u has shape {tuple(u.shape)}; allowed is one uniform a row, "
            f"{tuple(logits.shape[:-1])}"
        )
    if not bool(((u >= 0) & (u < 1)).all()):
        wrong = u[~((u >= 0) & (u < 1))].flatten()[0].item()
        raise ValueError(f"sample: u={wrong} must be a number >= 0 and < 1")


def greedy_stage(logits: Tensor) -> Tensor:
    """``greedy`` without its checks."""
    if on_host(logits):
        return torch.as_tensor(logits.detach().numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


def sample_stage(logits: Tensor, u: Tensor) -> Tensor:
    """``sample`` without its checks."""
    mass = masses(logits)
    token = _invert(mass, u) if mass.device.type == "cpu" else _invert_blocks(mass, u)
    # A row that has ended may hold no token, hence NaN: any id will do, if it is one.
    return token.clamp_max(logits.shape[-1] - 1).to(logits.device)


def _invert(mass: Tensor, u: Tensor) -> Tensor:
    """The first token at which the masses sum to more than u of them all."""
    sums = mass.cumsum(dim=-1)
    # Below the total, also when rounded: u is at most 1 - 2^-53, the total at least 1.
    target = u.to(sums).unsqueeze(-1) * sums[..., -1:]
    return torch.searchsorted(sums, target, right=True).squeeze(-1)


def _invert_blocks(mass: Tensor, u: Tensor) -> Tensor:
    """``_invert``, first among blocks, then inside one.

    A GPU adds a row's numbers one after the other with one of its many parts: in
    blocks, with all.
    """
    size = math.isqrt(mass.shape[-1]) + 1
    padded = F.pad(mass, (0, -mass.shape[-1] % size))
    blocks = padded.view(*mass.shape[:-1], padded.shape[-1] // size, size)
    ends = blocks.sum(dim=-1).cumsum(dim=-1)
    target = u.to(mass).unsqueeze(-1) * ends[..., -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_max(ends.shape[-1] - 1)
    begin = F.pad(ends, (1, 0)).gather(-1, block)
    index = block.unsqueeze(-1).expand(*block.shape, size)
    inside = blocks.gather(-2, index).squeeze(-2).cumsum(dim=-1)
    # The block reaches the target, but for rounding, which must not lead beyond it.
    most = torch.nextafter(inside[..., -1:], inside.new_zeros(()))
    rest = torch.minimum(target - begin, most)
    token = block * size + torch.searchsorted(inside, rest, right=True)
    return token.squeeze(-1)


def masses(logits: Tensor) -> Tensor:
    r"""The summands of softmax, :math:`e^{z_v - \max_w z_w}`, in float64."""
    wide = logits.to(sum_device(logits)).double()
    return (wide - wide.amax(dim=-1, keepdim=True)).exp_()


def sum_device(logits: Tensor) -> torch.device:
    """Where masses are summed: where the logits are, unless that has no float64."""
    mps = logits.device.type == "mps"
    return torch.device("cpu") if mps else logits.device


def on_host(logits: Tensor) -> bool:
    """Whether NumPy can read this; it sorts and searches several times faster."""
    wide = logits.dtype in (torch.float32, torch.float64)
    return wide and logits.device.type == "cpu"
