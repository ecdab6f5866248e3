"""One step of a model, whoever wraps it, counts its positions or uses it as well."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from model_zoo import VOCAB, prompts, random_model
from torch import nn
from transformers import BambaConfig, BambaForCausalLM, OPTConfig, OPTForCausalLM

import lib

NEW = 12


class Wrapped(nn.Module):
    """Passes on whatever it is given, as adapters do."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [Wrapped, compiled])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_wrapped_model_writes_what_the_model_writes(family, wrap):
    model, (ids, mask) = random_model(family), prompts((2, 9))
    settings = {"attention_mask": mask, "max_new_tokens": NEW, "eos_token_id": -1}
    wanted = lib.generate(model, ids, **settings)
    assert torch.equal(lib.generate(wrap(model), ids, **settings), wanted)


def test_a_model_that_miscounts_positions_is_told_them():
    """Bamba, without them, takes each new token for the first."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = BambaConfig(vocab_size=VOCAB, attn_layer_indices=[1], **sizes, **special)
    torch.manual_seed(1)
    model = BambaForCausalLM(config).eval()
    for weights in model.parameters():
        if weights.ndim > 1:
            nn.init.normal_(weights, std=0.3)
    ids, _ = prompts((9,))
    slow = ids
    with torch.no_grad():
        for _ in range(NEW):
            best = model(slow).logits[:, -1:].argmax(dim=-1)
            slow = torch.cat([slow, best], dim=1)
    assert torch.equal(lib.generate(model, ids, max_new_tokens=NEW), slow)


def test_threads_that_share_a_model_in_train_mode_see_no_dropout():
    sizes = {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = OPTConfig(vocab_size=VOCAB, dropout=0.5, eos_token_id=None, **sizes)
    torch.manual_seed(0)
    model = OPTForCausalLM(config)
    for weights in model.parameters():
        if weights.ndim > 1:
            nn.init.normal_(weights, std=0.5)
    ids, _ = prompts((3,))
    wanted = lib.generate(copy.deepcopy(model).eval(), ids, max_new_tokens=NEW)
    model.train()
    found = []

    def work():
        for _ in range(15):
            found.append(lib.generate(model, ids, max_new_tokens=NEW))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 90
    assert all(torch.equal(text, wanted) for text in found)
    assert all(module.training for module in model.modules())
