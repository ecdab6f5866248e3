"""One step of a model, whoever wraps it, counts its positions or uses it as well."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from model_zoo import VOCAB, prompts, random_model, with_large_weights
from torch import nn
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

import lib
from lib import forward

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


class Named(Wrapped):
    """Names some of it, as those for a task do."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        named = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.inner(**named, **kwargs)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [Wrapped, Named, compiled])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_wrapped_model_writes_what_the_model_writes(family, wrap):
    model, (ids, mask) = random_model(family), prompts((2, 9))
    settings = {"attention_mask": mask, "max_new_tokens": NEW, "eos_token_id": -1}
    wanted = lib.generate(model, ids, **settings)
    assert torch.equal(lib.generate(wrap(model), ids, **settings), wanted)


def test_a_model_whose_positions_begin_elsewhere_is_told_so():
    """RoBERTa's first token has the position after that of padding."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 64}
    special = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": None}
    config = RobertaConfig(vocab_size=VOCAB, is_decoder=True, **sizes, **special)
    torch.manual_seed(0)
    model = with_large_weights(RobertaForCausalLM(config))
    model.lm_head.decoder.weight.data[1] = 0  # writes no padding
    ids, mask = prompts((4, 9))
    found = lib.generate(model, ids, attention_mask=mask, max_new_tokens=NEW)
    for row, length in enumerate((4, 9)):
        slow = ids[row : row + 1, -length:]
        assert torch.equal(
            lib.generate(model, slow, max_new_tokens=NEW)[0, length:], found[row, 9:]
        )
        with torch.no_grad():
            for _ in range(NEW):
                best = model(slow).logits[:, -1:].argmax(dim=-1)
                slow = torch.cat([slow, best], dim=1)
        assert torch.equal(found[row, 9:], slow[0, length:])


def test_a_model_that_miscounts_positions_is_told_them():
    """Bamba, without them, takes each new token for the first."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = BambaConfig(vocab_size=VOCAB, attn_layer_indices=[1], **sizes, **special)
    torch.manual_seed(1)
    model = with_large_weights(BambaForCausalLM(config), lambda _: 0.3)
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
    model = with_large_weights(OPTForCausalLM(config))
    ids, _ = prompts((3,))
    wanted = lib.generate(model, ids, max_new_tokens=NEW)
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


def test_a_wrapper_and_its_model_are_in_use_together():
    """The one that leaves first leaves the modules of the other as they are."""
    model = copy.deepcopy(random_model("llama")).train()
    first, second = forward.evaluating(model), forward.evaluating(Wrapped(model))
    with second:
        with first:
            pass
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
    assert not forward._users


def test_a_model_that_fails_is_nobodys(monkeypatch):
    model = copy.deepcopy(random_model("llama")).train()

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            lib.generate(model, torch.tensor([[1]]), max_new_tokens=2)
    assert all(module.training for module in model.modules())
    assert not forward._users
