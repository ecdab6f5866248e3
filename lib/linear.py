"""Linear layers whose weights lie in the order in which a step reads them.

Each token needs every weight once, so that no step is faster than one reading of them
all. Three layouts come near that, on a CPU:

**Halves.** Where float16 holds a matrix, as it does one from a file in float16 or
bfloat16, half the bytes are read, and FBGEMM widens them on the way: the arithmetic
is that of float32.

**Shares.** The product of one row runs on one core, whatever the number of threads.
Cut along its inputs it becomes several products and a sum, and all cores read, each
from the start of its share to the end. Only a matrix that lies the other way round is
copied: of GPT-2's, the head. One thread reads fastest along a matrix's longer side,
for which one matrix of each layer is copied, too.

**Packed.** For several rows, the layout of oneDNN. By a matrix as it lies oneDNN
multiplies not much slower: that is how a prompt passes matrices laid out for one row.

A matrix that a processor's cache can hold gains from the first alone. A copy is made
at a model's first generation of its kind and freed with the model.

A copy can grow stale: weights may change between two generations, and not every way
to change them leaves a trace (writing through ``weight.data`` counts no version). So
each generation multiplies every copied matrix by one random vector and compares the
product with the one taken when it was copied. This costs at most about one more reading
of the weights a generation, and misses only what is lost in the rounding of a product.

The operators of FBGEMM and oneDNN are not part of PyTorch's public interface. Where
they are missing, or where a full copy would take more than a quarter of the machine's
memory, the matrices are used where they lie.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


class Matrix(Protocol):
    """A matrix W in some layout."""

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``(tokens, in)`` -> ``(tokens, out)``: x W + bias, in the dtype of x."""


_CACHE = 32 * 2**20  # bytes of weights that may stay in a cache from step to step
_SMALL = 2**19  # weights: starting all threads, 20 µs, would take longer
_LOST = 2.0**-39  # of the largest weight: far below what a sum in float32 loses


class PackedLinear(nn.Module):
    """A linear layer in a layout of its own: it can be applied, and nothing else.

    Args:
        weight: of shape ``(out, in)``, in float32 or bfloat16.
        bias: ``(out,)``, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        halves = _halves(weight) if _has_halves() else None
        self.packed: Matrix = halves or _packed(weight)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` -> ``(..., out)``."""
        y = self.packed(x.reshape(-1, x.shape[-1]), self.bias)
        return y.view(*x.shape[:-1], -1)

    def _save_to_state_dict(self, *_: Any) -> None:
        raise RuntimeError(
            "a packed model has no weights to save: save it before lib.gpt2.pack"
        )

    def __reduce_ex__(self, _: Any) -> Any:
        raise RuntimeError(
            "a packed model cannot be copied or pickled: do it before lib.gpt2.pack"
        )


def can_pack(weight: Tensor) -> bool:
    """Whether a matrix ``(out, in)`` can become a ``PackedLinear`` here."""
    return _has_packed(weight.dtype) or (_has_halves() and _fit(weight))


def weight_of(linear: Any) -> Tensor:
    """A layer's matrix as ``(out, in)``; ``Conv1D`` has it the other way round."""
    weight: Tensor = linear.weight.detach()
    return weight if isinstance(linear, nn.Linear) else weight.T


def functions(model: Any, layers: Sequence[Any], rows: int) -> Iterator[Function]:
    """Linear layers as functions, ``(tokens, in)`` -> ``(tokens, out)``, in order.

    Args:
        model: whose layers they are; copies are kept as long as it lives.
        layers: ``nn.Linear``, ``Conv1D`` or ``PackedLinear``.
        rows: how many texts a step will continue.
    """
    size = sum(x.weight.nbytes for x in layers if not isinstance(x, PackedLinear))
    fits, large = size <= _memory() / 4, size > _CACHE
    for index, layer in enumerate(layers):
        if isinstance(layer, PackedLinear):
            yield layer.forward
            continue
        weight = weight_of(layer)
        matrix = _arranged(model, index, weight, rows, large) if fits else None
        yield partial(matrix or partial(_in_place, weight.T), bias=layer.bias)


def _arranged(
    model: Any, index: int, weight: Tensor, rows: int, large: bool
) -> Matrix | None:
    """The matrix as a step reads it fastest; None where that is as it lies."""
    current = partial(_current, model, index, weight)
    packs = _has_packed(weight.dtype)
    if (weight.dtype == torch.float32 or not packs) and _has_halves():
        # A few rows tell most matrices that do not fit.
        held = (_halves, index) in _copies.get(model, ()) or _fit(weight[:4])
        if held and (matrix := current(_halves)) is not None:
            return matrix
    if large and rows == 1 and weight.dtype == torch.float32:
        lies = _lies_for_one_row(weight)
        return _for_one_row(weight) if lies else current(_for_one_row)
    return current(_packed) if large and packs else None


# Of each model, by layout and place: the number of threads a copy was made for, the
# product that shows whether the weight is still the one that was copied, and the copy;
# None where the layout cannot hold it.
_Arrange = Callable[[Tensor], Matrix | None]
_Copies = dict[tuple[_Arrange, int], tuple[int, Tensor, Matrix | None]]
_copies: WeakKeyDictionary[Any, _Copies] = WeakKeyDictionary()


def _current(
    model: Any, index: int, weight: Tensor, arrange: _Arrange
) -> Matrix | None:
    """The weight arranged, and arranged again if the module's has changed."""
    copies = _copies.setdefault(model, {})
    luck = torch.Generator().manual_seed(0)
    probe = torch.randn(weight.shape[1], generator=luck, dtype=weight.dtype)
    product, threads = weight @ probe, torch.get_num_threads()
    known = copies.get((arrange, index))
    if known is None or known[0] != threads or not torch.equal(known[1], product):
        copies[arrange, index] = threads, product, arrange(weight)
    return copies[arrange, index][2]


def forget(model: Any) -> None:
    """Free the copies of a model's matrices."""
    _copies.pop(model, None)


# --- one row --------------------------------------------------------------------------


def _for_one_row(weight: Tensor) -> Matrix:
    if not _along_outputs(weight):
        return partial(_in_place, weight.contiguous().T)
    matrix = weight.T.contiguous()  # (in, out)
    count = math.gcd(len(matrix), torch.get_num_threads())
    if count == 1:
        return partial(_in_place, matrix)
    return partial(_in_shares, matrix, matrix.view(count, -1, matrix.shape[1]))


def _along_outputs(weight: Tensor) -> bool:
    """Whether one row is multiplied faster where memory runs along the outputs."""
    return torch.get_num_threads() > 1 or weight.shape[0] >= weight.shape[1]


def _lies_for_one_row(weight: Tensor) -> bool:
    return (weight.T if _along_outputs(weight) else weight).is_contiguous()


def _in_place(matrix: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    if len(x) > 1 and _has_packed(matrix.dtype):
        return _by_onednn(matrix.T, x, bias)
    return x @ matrix if bias is None else torch.addmm(bias, x, matrix)


def _in_shares(
    matrix: Tensor, shares: Tensor, x: Tensor, bias: Tensor | None
) -> Tensor:
    """A row by shares ``(shares, in/shares, out)``, and their sum; a prompt whole."""
    if len(x) > 1:
        return _in_place(matrix, x, bias)
    y = torch.bmm(x.view(len(shares), 1, -1), shares).sum(0)
    return y if bias is None else y.add_(bias)


# --- oneDNN ---------------------------------------------------------------------------


def _packed(weight: Tensor) -> Matrix:
    return partial(_by_onednn, torch.ops.mkldnn._reorder_linear_weight(weight))


def _as_it_lies(weight: Tensor) -> Matrix:
    return partial(_by_onednn, weight)


def _by_onednn(packed: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()  # its strides are not read
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


@cache
def _has_packed(dtype: torch.dtype) -> bool:
    """Whether this version of PyTorch has the operators, and this CPU the dtype."""
    return all(_works(pack, dtype) for pack in (_packed, _as_it_lies))


# --- halves ---------------------------------------------------------------------------


def _halves(weight: Tensor) -> Matrix | None:
    """The matrix in float16, widened by a power of two where that makes it fit."""
    for scale in (1.0, _widest(weight)):
        if _hold(weight, scale):
            threads = torch.get_num_threads() > 1 and weight.numel() > _SMALL
            pack = _on_all_threads if threads else _on_one_thread
            matrix = pack(weight.float() * scale)
            if scale == 1 and weight.dtype == torch.float32:
                return matrix
            return partial(
                _narrowed, matrix, torch.tensor([1 / scale], dtype=torch.float32)
            )
    return None


def _narrowed(matrix: Matrix, factor: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    wide = x * factor  # which is in float32
    return matrix(wide, None if bias is None else bias.float()).to(x.dtype)


def _on_one_thread(weight: Tensor) -> Matrix:
    packed = torch.fbgemm_pack_gemm_matrix_fp16(weight)
    return partial(_by_fbgemm, packed)


def _by_fbgemm(packed: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    return torch.fbgemm_linear_fp16_weight_fp32_activation(x, packed, bias)


def _on_all_threads(weight: Tensor) -> Matrix:
    return partial(_by_all, torch.ops.quantized.linear_prepack_fp16(weight))


def _by_all(packed: Any, x: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, packed)
    return y if bias is None else y.add_(bias)


def _fit(weight: Tensor) -> bool:
    return _hold(weight, _widest(weight))


def _hold(weight: Tensor, scale: float) -> bool:
    """Whether float16 keeps what float32 would, up to ``_LOST`` of the largest."""
    bound = _LOST * weight.abs().max()

    def held(rows: Tensor) -> bool:
        rows = rows.float()
        return bool(((rows * scale).half().float() / scale - rows).abs().max() <= bound)

    return all(held(rows) for rows in torch.split(weight, 1024))


def _widest(weight: Tensor) -> float:
    """The power of two that brings a matrix nearest to float16's largest number."""
    _, exponent = math.frexp(float(weight.abs().max()))
    return 2.0 ** min(15 - exponent, 100)


def _has_halves() -> bool:
    """Whether this version of PyTorch has the operators, and FBGEMM this CPU."""
    return _engine_has_halves(torch.backends.quantized.engine)


@cache
def _engine_has_halves(_: str) -> bool:
    return all(_works(f, torch.float32) for f in (_on_one_thread, _on_all_threads))


def _works(pack: Callable[[Tensor], Matrix], dtype: torch.dtype) -> bool:
    ones = torch.ones(2, 2, dtype=dtype)
    try:
        with warnings.catch_warnings():  # some of the operators are called deprecated
            warnings.simplefilter("ignore")
            return bool((pack(ones)(ones, None) == 2).all())
    except (AttributeError, RuntimeError):
        return False


@cache
def _memory() -> float:
    """Bytes of memory in this machine; without a limit where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return float("inf")
