"""Models: two in the box that need no network, and any other by name or path."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from model_zoo import FAMILIES, VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

import lib

EMBEDDED = pytest.mark.parametrize("name", ["tiny", "nano"])


@pytest.fixture
def no_network(monkeypatch):
    """Every socket fails at once, as on a machine without a network."""

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@EMBEDDED
def test_the_models_in_the_box_need_no_network(name, no_network):
    model, tokenizer = lib.load(name, device="cpu")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    text = "Once upon a time, 日本 😀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == 0
    assert lib.complete(model, tokenizer, "Lily", max_new_tokens=3).startswith("Lily")


def test_load_alone_is_tiny_and_both_share_a_tokenizer(no_network):
    (first, one), (second, two) = lib.load(), lib.load("nano")
    assert one.get_vocab() == two.get_vocab()
    sizes = [sum(p.numel() for p in m.parameters()) for m in (first, second)]
    assert sizes[0] > 2 * sizes[1]


@EMBEDDED
def test_dtype_and_device_are_those_asked_for(name):
    model, _ = lib.load(name, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_each_load_is_a_model_of_its_own():
    one, two = lib.load("nano")[0], lib.load("nano")[0]
    with torch.no_grad():
        one.lm_head.weight.zero_()
    assert two.lm_head.weight.abs().sum() > 0


def test_the_head_is_the_embedding():
    model, _ = lib.load("nano")
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    "name", ["gpt2", "nobody/nothing-here", "./nowhere", "no name!"]
)
def test_an_unknown_name_without_network_fails_fast_and_says_what_to_do(
    name, no_network, monkeypatch
):
    """The hub's client alone would try again for twenty seconds."""
    begun = time.monotonic()
    with pytest.raises(OSError, match="name=") as caught:
        lib.load(name)
    assert time.monotonic() - begun < 10
    message = str(caught.value)
    for part in (repr(name), "tiny, nano", "local folder", "cache", "hub", "load()"):
        assert part in message
    assert "works offline" in message


def test_offline_mode_is_respected():
    """A process of its own: the hub's client reads the variable when imported."""
    program = (
        "import lib\n"
        "print(type(lib.load()[0]).__name__, type(lib.load('nano')[0]).__name__)\n"
        "try:\n    lib.load('nobody/nothing-here')\n"
        "except OSError as error:\n    print('load() works offline' in str(error))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["GPT2LMHeadModel", "GPT2LMHeadModel", "True"]


@pytest.fixture(scope="module")
def words():
    """A tokenizer of one id a word, w0 to w60."""
    vocabulary = {f"w{i}": i for i in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_local_folder_is_loaded_without_network(family, words, tmp_path, no_network):
    saved = FAMILIES[family]().eval()
    saved.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model, tokenizer = lib.load(str(tmp_path), device="cpu")
    assert type(model) is type(saved)
    assert not model.training
    ids = torch.tensor([[5, 6, 7]])
    found = lib.generate(model, ids, max_new_tokens=8)
    assert torch.equal(found, lib.generate(saved, ids, max_new_tokens=8))
    assert tokenizer("w5 w6")["input_ids"] == [5, 6]


def test_a_checkpoint_in_half_precision_is_float32_on_a_cpu(words, tmp_path):
    FAMILIES["gpt2"]().to(torch.bfloat16).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    assert lib.load(str(tmp_path), device="cpu")[0].dtype == torch.float32
    kept, _ = lib.load(str(tmp_path), device="cpu", dtype=torch.bfloat16)
    assert kept.dtype == torch.bfloat16


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"local folder holds no language model.*offline"):
        lib.load(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": None}, TypeError, r"name=None must be a str: tiny, nano, a hub name"),
        ({"name": 5}, TypeError, r"name=5 must be a str"),
        ({"name": ""}, OSError, r"name='' must be an embedded model"),
        ({"device": "bogus"}, ValueError, r"device='bogus' must be a device of this"),
        ({"device": "cuda:99"}, ValueError, r"device='cuda:99' must be a device of"),
        ({"device": 3.5}, TypeError, r"device=3.5 must be a str such as 'cpu'"),
        ({"dtype": "float32"}, TypeError, r"dtype='float32' must be a torch.dtype"),
    ],
)
def test_bad_arguments_of_load(arguments, error, message, no_network):
    with pytest.raises(error, match=message):
        lib.load(**arguments)


def test_a_model_without_a_head_is_refused():
    """What AutoModel gives is no language model."""
    bare = GPT2Model(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9))
    with pytest.raises(TypeError, match=r"GPT2Model.*no head.*AutoModelForCausalLM"):
        lib.generate(bare, torch.tensor([[1]]), max_new_tokens=1)
