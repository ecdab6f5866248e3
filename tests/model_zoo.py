"""Small random models whose wrong positions, masks or caches would show.

A model with the default initialisation and tied embeddings repeats one token whatever
it is fed, and agrees with every mistake. These have untied heads and large weights,
so that each next token depends on all tokens before it and on where they stand.
"""

from __future__ import annotations

from functools import cache, partial
from types import SimpleNamespace

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCAB = 61
CONTEXT = 64
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    **NO_SPECIAL,
}


def _gpt2():
    config = {
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": CONTEXT,
        "tie_word_embeddings": False,
        **NO_SPECIAL,
    }
    return GPT2LMHeadModel(GPT2Config(**config))


def _llama():
    # Two key-value heads for four: grouped-query attention.
    config = {**_COMMON, "intermediate_size": 64, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**config))


def _qwen2():
    config = {**_COMMON, "intermediate_size": 64, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**config))


def _gpt_neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**_COMMON, intermediate_size=64))


def _t5():
    config = T5Config(
        vocab_size=VOCAB,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    return T5ForConditionalGeneration(config)


FAMILIES = {
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _qwen2,
    "gpt_neox": _gpt_neox,
    "t5": _t5,
}


@cache
def random_model(family: str):
    """A model of a family with weights that are large, untied and always the same."""
    with torch.random.fork_rng(devices=[]):
        # Seeds under which greedy texts are long in getting into a loop.
        torch.manual_seed({"gpt2": 22, "gpt_neox": 23, "t5": 23}.get(family, 20))
        return with_large_weights(FAMILIES[family](), partial(_spread, family))


def with_large_weights(model, spread=lambda _: 0.5):
    """The model in eval mode, its matrices random; ``spread`` of their names."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread(name))
    return model.eval()


def _spread(family: str, name: str) -> float:
    """T5's next token would follow from the last one alone without these two."""
    if family == "t5" and "shared" in name:
        return 0.05
    if family == "t5" and "relative_attention_bias" in name:
        return 5.0
    return 0.5


class Scripted(torch.nn.Module):
    """A model whose logits are what a function says: exact truths for tests.

    Args:
        logits: ``(input_ids) -> (batch, vocab)``, the logits after ``input_ids``.
        vocab_size: size of its vocabulary.
    """

    def __init__(self, logits, vocab_size: int = VOCAB) -> None:
        super().__init__()
        self._logits = logits
        self._embedding = torch.nn.Embedding(vocab_size, 1)
        self._dropout = torch.nn.Dropout()
        self.config = SimpleNamespace(
            is_encoder_decoder=False,
            vocab_size=vocab_size,
            get_text_config=lambda decoder: SimpleNamespace(
                max_position_embeddings=CONTEXT
            ),
        )
        self.eval()

    def get_input_embeddings(self):
        return self._embedding

    def forward(self, input_ids, attention_mask=None, **_):
        """Logits of the last position alone; it has no cache and sees all tokens."""
        return SimpleNamespace(logits=self._logits(input_ids)[:, None])


def one_hot(ids, vocab_size: int = VOCAB):
    """Logits that leave no doubt: 10 at ``ids``, 0 elsewhere."""
    return 10.0 * torch.nn.functional.one_hot(ids, vocab_size).float()


def prompts(lengths: tuple[int, ...], seed: int = 0, vocab_size: int = VOCAB):
    """Random prompts of these lengths, padded on the left: ids, mask.

    Padding is the id 7, one like any other, so that only the mask tells.
    """
    source = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(1, vocab_size, (len(lengths), width), generator=source)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : width - length] = 0
    return torch.where(mask.bool(), ids, torch.tensor(7)), mask
