"""The embedded models without ``transformers``: for whoever only wants their text.

``transformers`` takes longer to import than an embedded model takes to write. What
``lib.gpt2`` needs of a model is GPT-2's weights under its names, and what a stream of
text needs of a tokenizer is ids for text and text for ids. This module offers no more,
and the command line starts with it in half of the time. Everything else, a call of the
model included, is there after ``lib.load``.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"


def load(name: str) -> tuple[PlainGPT2, PlainTokenizer]:
    """An embedded model in float32 on the CPU, and its tokenizer.

    Args:
        name: ``"tiny"`` or ``"nano"``.
    """
    from safetensors.torch import load_file

    folder = WEIGHTS / name
    config = json.loads((folder / "config.json").read_text("utf-8"))
    model = PlainGPT2(_Config(**config))
    weights = {k: w.float() for k, w in load_file(folder / "model.safetensors").items()}
    # The head is the embedding matrix, stored once.
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval(), PlainTokenizer(folder)


class _Config(SimpleNamespace):
    """The fields of a ``GPT2Config``, of a model that has no other part than text."""

    is_encoder_decoder = False

    @property
    def max_position_embeddings(self) -> int:
        """What all models call the context that GPT-2 calls ``n_positions``."""
        positions: int = self.n_positions
        return positions

    def get_text_config(self, **_: Any) -> Any:
        return self


class PlainGPT2(nn.Module):
    """GPT-2's weights in the places that ``GPT2LMHeadModel`` gives them.

    Args:
        config: the fields of a ``GPT2Config``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        width, eps = config.n_embd, config.layer_norm_epsilon
        self.transformer = _named(
            wte=nn.Embedding(config.vocab_size, width),
            wpe=nn.Embedding(config.n_positions, width),
            h=nn.ModuleList(_block(width, eps) for _ in range(config.n_layer)),
            ln_f=nn.LayerNorm(width, eps=eps),
        )
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        """The layer that knows the vocabulary and the device."""
        embedding: nn.Module = self.transformer.wte
        return embedding


class _Affine(nn.Module):
    """A linear layer whose weight is stored as ``(in, out)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))


def _block(width: int, eps: float) -> Any:
    return _named(
        ln_1=nn.LayerNorm(width, eps=eps),
        attn=_named(c_attn=_Affine(width, 3 * width), c_proj=_Affine(width, width)),
        ln_2=nn.LayerNorm(width, eps=eps),
        mlp=_named(c_fc=_Affine(width, 4 * width), c_proj=_Affine(4 * width, width)),
    )


def _named(**parts: nn.Module) -> Any:
    whole = nn.Module()
    for name, part in parts.items():
        whole.add_module(name, part)
    return whole


class PlainTokenizer:
    """Ids for text and text for ids, as the tokenizer of ``transformers`` has them.

    Args:
        folder: where ``tokenizer.json`` is.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def __call__(self, text: str) -> dict[str, list[int]]:
        """The ids of a text, special tokens by their names."""
        return {"input_ids": self._tokenizer.encode(text).ids}

    def decode(
        self,
        ids: list[int] | Tensor,
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> str:
        """The text of tokens; nothing is ever cleaned up."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens
        )
        return text
