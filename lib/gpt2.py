"""GPT-2 as a dozen tensor operations a layer: the model's numbers without its modules.

A step of a small model spends most of its time between the operations, and a step of
a larger one waits for weights. Two things follow.

**Few calls.** ``transformers`` serves every model, cache and attention through one
tree of modules. Here the formula stands written out once, for the plain GPT-2 alone,
with keys and values in tensors that are allocated in full at the start.

**Weights in the order in which they are read.** ``lib.linear`` has the layouts. Of a
GPT-2 of 124M parameters in float32, several rows copy all matrices (0.5 GB), one row
the head (0.15 GB), and on one thread a matrix of each layer (0.27 GB in all); where
float16 holds the weights, all are copied in half the bytes (0.25 GB). ``pack`` puts
such copies in the place of the module's own weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.embedded import PlainGPT2
from lib.forward import ATTENTIONS, is_plain, positions
from lib.linear import Function, PackedLinear, can_pack, forget, functions, weight_of

_DTYPES = (torch.float32, torch.bfloat16)
# Activations by their name in the configuration: torch's name for the approximation.
_GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


class GPT2Forward:
    """A plain GPT-2's next-token logits along one generation, as ``CachedForward``.

    Args:
        model: a ``GPT2LMHeadModel`` that ``supports`` accepts.
        attention_mask: of the prompts, ``(rows, length)``; None where nothing is
            masked.
        rows: how many sequences.
        length: the most tokens a sequence will have.
    """

    def __init__(
        self, model: Any, attention_mask: Tensor | None, rows: int, length: int
    ) -> None:
        gpt2 = model.transformer
        matrices = [getattr(place, name) for place, name in _places(model)]
        linears = functions(model, matrices, rows)
        self._layers = [_Layer.read(block, linears) for block in gpt2.h]
        self._head = next(linears)
        self._norm = _norm(gpt2.ln_f)
        self._embedding, places = gpt2.wte.weight, gpt2.wpe.weight
        approximation = _GELU[model.config.activation_function]
        self._gelu = partial(F.gelu, approximate=approximation)
        self._heads, width = model.config.n_head, model.config.n_embd
        self._seen = 0
        self._padding: Tensor | None = None
        where = torch.arange(length)[None]
        if attention_mask is not None:
            real = F.pad(attention_mask, (0, length - attention_mask.shape[1]), value=1)
            where = positions(real)
            zero = places.new_zeros((rows, 1, 1, length))
            self._padding = zero.masked_fill(real[:, None, None] == 0, -torch.inf)
        self._places = F.embedding(where, places)
        shape = (2, rows, self._heads, length, width // self._heads)
        self._memory = [places.new_empty(shape) for _ in self._layers]

    def logits(self, ids: Tensor, _: Tensor | None = None) -> Tensor:
        """Logits after the whole of ``ids``, ``(rows, length)`` -> ``(rows, vocab)``.

        Successive calls must extend the same sequences.
        """
        rows, end = ids.shape
        begin, self._seen = self._seen, end
        attend = partial(self._attend, begin, self._bias(begin, end))
        x = F.embedding(ids[:, begin:], self._embedding) + self._places[:, begin:end]
        x = x.view(rows * (end - begin), -1)
        for layer, memory in zip(self._layers, self._memory, strict=True):
            x = x + layer.mix(attend(layer.qkv(layer.norm_1(x)), memory))
            x = x + layer.down(self._gelu(layer.up(layer.norm_2(x))))
        return self._head(self._norm(x.view(rows, end - begin, -1)[:, -1]))

    def _attend(
        self, begin: int, bias: Tensor | None, qkv: Tensor, memory: Tensor
    ) -> Tensor:
        """Remember keys and values, and mix values: (rows·new, 3·width) -> (…, width).

        ``memory`` holds the layer's keys and values, (2, rows, heads, length, size).
        """
        _, rows, heads, _, size = memory.shape
        # (3, rows, heads, new, size)
        qkv = qkv.view(rows, -1, 3, heads, size).permute(2, 0, 3, 1, 4)
        new = qkv.shape[3]
        end = begin + new
        memory[:, :, :, begin:end] = qkv[1:]
        mixed = F.scaled_dot_product_attention(
            qkv[0],
            memory[0, :, :, :end],
            memory[1, :, :, :end],
            attn_mask=bias,
            is_causal=bias is None and new > 1,
        )
        return mixed.transpose(1, 2).reshape(rows * new, heads * size)

    def _bias(self, begin: int, end: int) -> Tensor | None:
        """What hides padding, and for a prompt the future; None without padding."""
        if self._padding is None:
            return None
        padding = self._padding[..., :end]
        if end - begin == 1:
            return padding
        future = padding.new_full((end, end), -torch.inf).triu(1)
        # Padding sees itself, for a query that sees nothing has no number.
        itself = torch.eye(end, dtype=torch.bool, device=padding.device)
        return (padding + future).masked_fill(itself, 0.0)


@dataclass(frozen=True)
class _Layer:
    """One block: what it does to hidden states, ``(tokens, width)``, in order."""

    norm_1: Function
    qkv: Function
    mix: Function
    norm_2: Function
    up: Function
    down: Function

    @classmethod
    def read(cls, block: Any, linears: Iterator[Function]) -> _Layer:
        qkv, mix, up, down = (next(linears) for _ in range(4))
        return cls(_norm(block.ln_1), qkv, mix, _norm(block.ln_2), up, down)


def _norm(norm: Any) -> Function:
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: F.layer_norm(x, shape, weight, bias, eps)


def supports(model: Any) -> bool:
    """Whether a model is a plain GPT-2, which runs here: on a CPU, and nothing added.

    Hooks, adapters, quantised layers, cross-attention, other scales of attention and
    autocast all change what a forward step does, and are left to the model itself.
    """
    if isinstance(model, PlainGPT2):
        return True
    if type(model).__name__ != "GPT2LMHeadModel":  # imports nothing for the others
        return False
    config = model.config
    return (
        not (config.add_cross_attention or config.reorder_and_upcast_attn)
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
        and config.activation_function in _GELU
        and config._attn_implementation in ATTENTIONS
        and is_plain(model)
        and all(_is_known(m, config) for m in model.modules())
        and _same_kind(list(model.parameters()))
        and not torch.is_autocast_enabled("cpu")
    )


def _same_kind(parameters: list[Tensor]) -> bool:
    dtype = parameters[0].dtype
    return dtype in _DTYPES and all(
        type(p) is nn.Parameter and p.dtype == dtype and p.device.type == "cpu"
        for p in parameters
    )


def _is_known(module: Any, config: Any) -> bool:
    """Whether a module is one of GPT-2's and still does what is written out here."""
    usual = (config.n_embd // config.n_head) ** -0.5
    return (
        type(module) in _classes(config.activation_function)
        and getattr(module, "scaling", usual) == usual
        and getattr(module, "is_causal", True)
        and getattr(module, "max_norm", None) is None
    )


@cache
def _classes(activation: str) -> frozenset[type]:
    from transformers.activations import ACT2FN
    from transformers.models.gpt2 import modeling_gpt2 as gpt2
    from transformers.pytorch_utils import Conv1D

    classes: set[type] = {gpt2.GPT2LMHeadModel, gpt2.GPT2Model, gpt2.GPT2Block}
    classes |= {gpt2.GPT2Attention, gpt2.GPT2MLP, Conv1D, PackedLinear}
    classes |= {nn.Embedding, nn.Dropout, nn.ModuleList, nn.LayerNorm, nn.Linear}
    return frozenset(classes | {type(ACT2FN[activation])})


@torch.no_grad()
def pack(model: Any) -> None:
    """Replace a plain GPT-2's matrices by packed ones, once and for all.

    Several rows are then continued as fast as with a packed copy, without the copy:
    what remains twice is the embedding, if it is the head too. A single row is
    continued faster by the model as it was, with a copy of the head alone. A packed
    model still answers calls, but can neither be trained, copied nor saved, nor go to
    another device or dtype.

    Args:
        model: a ``GPT2LMHeadModel`` on the CPU, which is changed in place.

    Raises:
        ValueError: no plain GPT-2 on the CPU, or a CPU on which its dtype cannot be
            packed.
    """
    if not supports(model):
        raise ValueError(
            f"model must be a plain GPT2LMHeadModel on the CPU in float32 or bfloat16, "
            f"without hooks or adapters, got {type(model).__name__} on {model.device}"
        )
    places = [
        (p, n) for p, n in _places(model) if not isinstance(getattr(p, n), PackedLinear)
    ]
    if not all(can_pack(weight_of(getattr(*place))) for place in places):
        raise ValueError(
            f"model has dtype {model.dtype}, which this CPU cannot pack; allowed is "
            "torch.float32, and torch.bfloat16 on CPUs with AVX-512 or where float16 "
            "holds the weights"
        )
    forget(model)
    model.requires_grad_(False)
    for place, name in places:
        linear = getattr(place, name)
        setattr(place, name, PackedLinear(weight_of(linear), linear.bias))


def _places(model: Any) -> Iterator[tuple[Any, str]]:
    """Where the matrices are, in the order in which a step needs them."""
    for block in model.transformer.h:
        yield block.attn, "c_attn"
        yield block.attn, "c_proj"
        yield block.mlp, "c_fc"
        yield block.mlp, "c_proj"
    yield model, "lm_head"
