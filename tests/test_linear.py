"""Linear layers in each layout of their weights: the product, and the copies kept.

Whole generations in these layouts are compared with ``transformers`` in test_gpt2.py.
"""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import FAMILIES, prompts
from torch import nn
from transformers.pytorch_utils import Conv1D

import lib
from lib import linear

ALONE, TOGETHER = (9,), (5, 9, 1, 6)
LAYERS = FAMILIES["gpt2"]().config.n_layer
needs_packing = pytest.mark.skipif(
    not linear._has_packed(torch.float32), reason="this PyTorch cannot pack weights"
)
needs_halves = pytest.mark.skipif(
    not linear._has_halves(), reason="this PyTorch cannot multiply by float16"
)
layouts = pytest.mark.parametrize(
    "arrange",
    [
        linear._for_one_row,
        pytest.param(linear._packed, marks=needs_packing),
        pytest.param(linear._halves, marks=needs_halves),
    ],
)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- the product --------------------------------------------------------------------


def assert_multiplies(matrix, weight, tokens, dtype=torch.float32):
    """x W + b with and without b, to what a sum in float32 may lose."""
    x = torch.randn(tokens, weight.shape[1], dtype=dtype)
    bias = torch.randn(len(weight), dtype=dtype)
    terms = x.double().abs() @ weight.T.double().abs() + bias.double().abs()
    for b in (bias, None):
        wanted = x.double() @ weight.T.double() + (0 if b is None else b.double())
        found = matrix(x, b)
        assert found.dtype == dtype
        assert found.shape == wanted.shape
        error = 2.0**-24 * (weight.shape[1] + 2) * terms
        if dtype == torch.bfloat16:
            error += 2.0**-8 * wanted.abs()  # once, at the end
        assert ((found.double() - wanted).abs() <= error).all()
    assert x.shape == (tokens, weight.shape[1])


@layouts
@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tokens=st.sampled_from([1, 2, 7]),
    transposed=st.booleans(),
    seed=st.integers(0, 999),
)
def test_each_layout_multiplies(arrange, sizes, tokens, transposed, seed):
    torch.manual_seed(seed)
    weight = torch.randn(sizes[::-1]).T if transposed else torch.randn(sizes)
    weight = weight.half().float()
    assert_multiplies(arrange(weight), weight, tokens)


@layouts
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (50, 63), (1100, 1024)])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.usefixtures("two_threads")
def test_so_it_does_on_several_threads(arrange, shape, tokens):
    """The matrix of a million weights is one that halves multiply on all of them."""
    weight = torch.randn(shape).half().float()
    assert_multiplies(arrange(weight), weight, tokens)


@pytest.mark.usefixtures("two_threads")
def test_one_row_is_shared_among_the_threads():
    shared = linear._for_one_row(torch.randn(12, 8))
    assert shared.func is linear._in_shares
    assert shared.args[1].shape == (2, 4, 12)
    # Nine inputs cannot be halved.
    assert linear._for_one_row(torch.randn(12, 9)).func is linear._in_place


def test_one_thread_reads_along_the_longer_side():
    for shape in ((5, 3), (3, 5), (4, 4)):
        for weight in (torch.randn(shape), torch.randn(shape[::-1]).T):
            (matrix,) = linear._for_one_row(weight).args  # (in, out)
            assert torch.equal(matrix, weight.T)
            assert matrix.stride(1 if shape[0] >= shape[1] else 0) == 1
            assert linear._lies_for_one_row(matrix.T)
    assert not linear._lies_for_one_row(torch.randn(5, 3))
    assert linear._lies_for_one_row(torch.randn(3, 5))


# --- what halves hold -----------------------------------------------------------------

BIT = 2.0**-11  # the first that float16 has not


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ([1.0, -0.5, 0.0], True),
        ([1 + 2 * BIT, 0.1], False),  # 0.1 has no end in binary digits
        ([1 + 2 * BIT, 0.125], True),
        ([1 + BIT, 0.125], False),
        ([65504.0, 1.0], True),
        ([2.0**100, 2.0**100 * (1 + 2 * BIT)], True),
        ([2.0**-100, 2.0**-100 * (1 + 2 * BIT)], True),
        ([1.0, 2.0**-38], True),  # 1 is at 2**14, the last digit at 2**-24
        ([1.0, 1.5 * 2.0**-38], True),  # lost, and less than a sum would lose of it
        ([1.0, 2.0**-50], True),
        ([0.0, 0.0], True),
        ([math.inf, 1.0], False),
        ([math.nan, 1.0], False),
    ],
)
@needs_halves
def test_halves_hold_what_float16_can(values, held):
    weight = torch.tensor([values])
    matrix = linear._halves(weight)
    assert (matrix is not None) == held
    assert linear.can_pack(weight.bfloat16().float()) or not held
    if held:
        assert_multiplies(matrix, weight, 3)


@needs_halves
@given(
    seed=st.integers(0, 9999),
    exponents=st.tuples(st.integers(-60, 20), st.integers(1, 30)),
)
def test_every_entry_of_a_held_matrix_comes_back(seed, exponents):
    """bfloat16's eight digits fit; times the unit vectors a product shows each."""
    lowest, span = exponents
    torch.manual_seed(seed)
    power = torch.randint(lowest, lowest + span, (9, 6)).float()
    weight = (torch.randn(9, 6).sign() * (1 + torch.rand(9, 6)) * 2**power).bfloat16()
    matrix = linear._halves(weight.float())
    assert matrix is not None, "thirty binary orders are within float16's forty"
    assert torch.equal(matrix(torch.eye(6), None).T, weight.float())


@needs_halves
@pytest.mark.parametrize("default", [torch.float16, torch.float64], ids=str)
def test_a_copy_does_not_depend_on_the_default_dtype(default):
    weight = torch.randn(8, 8).half().float() * 2.0**-12  # widened to fit
    x = torch.randn(1, 8)
    torch.set_default_dtype(default)
    try:
        matrix = linear._halves(weight)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(matrix(x, None), x @ weight.T, rtol=1e-5, atol=0)


@needs_packing
def test_a_bias_may_lie_apart():
    x, weight, bias = torch.randn(3, 8), torch.randn(8, 8), torch.randn(8, 2)[:, 0]
    wanted = x @ weight.T + bias
    for found in (
        linear._in_place(weight.T, x, bias),
        linear._packed(weight)(x, bias),
    ):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_bfloat16_is_rounded_once():
    torch.manual_seed(0)
    weight = torch.randn(70, 50, dtype=torch.bfloat16)
    assert_multiplies(linear._halves(weight), weight, 4, torch.bfloat16)


@needs_halves
def test_ordinary_weights_are_not_halved():
    assert linear._halves(torch.randn(70, 50)) is None
    late = torch.ones(3000, 4)
    late[-1, -1] += BIT
    assert linear._halves(late) is None


# --- the copies -----------------------------------------------------------------------


def fresh():
    model = FAMILIES["gpt2"]().eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def generate(model, lengths):
    ids, mask = prompts(lengths)
    settings = {"max_new_tokens": 6, "eos_token_id": -1, "pad_token_id": 0}
    return lib.generate(model, ids, attention_mask=mask, **settings)


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Small models are arranged like large ones."""
    monkeypatch.setattr(linear, "_CACHE", 0)


@pytest.mark.parametrize(
    ("lengths", "threads", "halved", "arrange", "copies"),
    [
        pytest.param(
            TOGETHER, 1, False, "_packed", 4 * LAYERS + 1, marks=needs_packing
        ),
        pytest.param(ALONE, 1, True, "_halves", 4 * LAYERS + 1, marks=needs_halves),
        # The other matrices of a layer lie along their longer side as they are,
        (ALONE, 1, False, "_for_one_row", LAYERS + 1),
        # and all but the head along their outputs.
        (ALONE, 2, False, "_for_one_row", 1),
    ],
    ids=["several rows", "halves", "one row", "one row, two threads"],
)
def test_unchanged_weights_are_copied_once(
    lengths, threads, halved, arrange, copies, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = fresh()
    if halved:
        model.half().float()
    made, real = [], getattr(linear, arrange)
    monkeypatch.setattr(linear, arrange, lambda weight: made.append(1) or real(weight))
    lies = 0 if arrange != "_for_one_row" else 4 * LAYERS + 1 - copies
    for run in range(1, 4):
        generate(model, lengths)
        assert len(made) == copies + run * lies
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    generate(model, lengths)
    assert len(made) == copies + 1 + 4 * lies


@pytest.mark.usefixtures("two_threads")
def test_a_copy_is_made_anew_for_another_number_of_threads():
    model = fresh()
    generate(model, ALONE)
    ((threads, _, matrix),) = linear._copies[model].values()
    assert (threads, matrix.func) == (2, linear._in_shares)
    torch.set_num_threads(1)
    generate(model, ALONE)
    copies = linear._copies[model].values()
    assert {threads for threads, *_ in copies} == {1}
    assert {matrix.func for *_, matrix in copies} == {linear._in_place}


@needs_packing
def test_the_copy_goes_with_the_model():
    model = fresh()
    gc.collect()
    before = len(linear._copies)
    for lengths in (ALONE, TOGETHER):
        generate(model, lengths)
    copies = [weakref.ref(x.args[0]) for *_, x in linear._copies[model].values()]
    assert len(copies) == 5 * LAYERS + 2
    assert len(linear._copies) == before + 1
    del model
    gc.collect()
    assert not any(copy() is not None for copy in copies)
    assert len(linear._copies) == before


def test_copies_can_be_forgotten():
    model = fresh()
    generate(model, ALONE)
    assert model in linear._copies
    linear.forget(model)
    linear.forget(model)
    assert model not in linear._copies


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        (TOGETHER, "small"),
        (ALONE, "small"),
        (TOGETHER, "no operators"),
        (TOGETHER, "little memory"),
        (ALONE, "little memory"),
    ],
)
def test_there_is_no_copy_where_it_gains_nothing_or_does_not_fit(
    lengths, reason, monkeypatch
):
    model = fresh()
    wanted = generate(model, lengths)
    linear.forget(model)
    if reason == "small":
        monkeypatch.setattr(linear, "_CACHE", math.inf)
    if reason == "no operators":
        monkeypatch.setattr(linear, "_has_packed", lambda dtype: False)
    if reason == "little memory":
        size = sum(p.nbytes for p in model.parameters())
        monkeypatch.setattr(linear, "_memory", lambda: 2 * size)
    assert torch.equal(generate(model, lengths), wanted)
    assert not linear._copies.get(model)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_a_pytorch_without_the_operators_arranges_nothing(error, monkeypatch):
    def missing(weight):
        raise error("'_OpNamespace' 'mkldnn' object has no attribute …")

    monkeypatch.setattr(linear, "_packed", missing)
    monkeypatch.setattr(linear, "_on_all_threads", missing)
    assert linear._has_packed.__wrapped__(torch.float32) is False
    assert linear._engine_has_halves.__wrapped__("x86") is False


@needs_halves
def test_halves_are_tried_anew_with_another_engine():
    """PyTorch's switch for quantised operators, which one may turn at any time."""
    engine = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = "qnnpack"
        assert not linear._has_halves()
    except RuntimeError:
        pytest.skip("this PyTorch was built without the other engine")
    finally:
        torch.backends.quantized.engine = engine
    assert linear._has_halves()


def test_operators_that_multiply_wrongly_are_not_used():
    assert not linear._works(lambda weight: lambda x, bias: x, torch.float32)
    assert linear._works(lambda weight: lambda x, bias: x @ weight, torch.float32)


# --- a layer of its own ---------------------------------------------------------------


@needs_packing
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", [nn.Linear, lambda a, b: Conv1D(b, a)])
def test_a_packed_layer_answers_like_the_layer(kind, held):
    layer = kind(12, 7).requires_grad_(False)
    if held:
        layer.half().float()
    packed = linear.PackedLinear(linear.weight_of(layer), layer.bias)
    for shape in ((12,), (3, 12), (2, 3, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(packed(x), layer(x), rtol=1e-4, atol=1e-4)
