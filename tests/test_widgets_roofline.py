"""The figure of chapter 8: its data, its formulas in JavaScript, and its refusals.

What it draws is checked in a browser, on the built book.
"""

from __future__ import annotations

import re
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from chapter_code import functions
from javascript import run_node_test
from transformers import GPT2Config, GPT2LMHeadModel

pytest.importorskip("anywidget")

from lib import widgets

SMALLEST = GPT2Config()
SHAPES = [
    SMALLEST,
    GPT2Config(n_layer=48, n_embd=1600, n_head=25),
    GPT2Config(n_layer=1, n_embd=4, n_head=1, vocab_size=9),
]


def model_of(figure):
    return {name: getattr(figure, name) for name in ("weights", "layers", "width")}


@pytest.mark.parametrize("inner", [None, 24])
def test_the_weights_are_those_of_the_matrices(inner):
    config = GPT2Config(
        n_layer=3, n_embd=8, n_head=2, vocab_size=11, n_inner=inner, n_positions=5
    )
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    matrices = sum(
        p.numel()
        for name, p in model.named_parameters()  # the head is the embedding
        if p.ndim == 2 and "wpe" not in name
    )
    assert widgets.Roofline(config).weights == matrices


def test_the_default_is_the_smallest_gpt2():
    assert model_of(widgets.Roofline()) == model_of(widgets.Roofline(SMALLEST))
    assert round(widgets.Roofline().weights / 1e6, 1) == 123.5


def test_the_formulas_are_those_of_the_chapter(tmp_path):
    ledger, floor = functions("08_fast", "ledger", "floor")
    golden = []
    machines = widgets.Roofline().machines
    for config, (_, operations, bandwidth) in product(SHAPES, machines):
        model = model_of(widgets.Roofline(config))
        for m, t, b in product([1, 2, 13, 128, 256], [1, 7, 500, 1000], [4, 2, 1]):
            n_op, n_byte = ledger(config, m, t, b)
            arithmetic = n_op / operations > n_byte / bandwidth
            weights = 2 * b * model["weights"] >= n_byte
            longer = "reading weights" if weights else "reading caches"
            golden.append(
                {
                    "model": model,
                    "step": {"m": m, "t": t, "b": b},
                    "machine": {"operations": operations, "bandwidth": bandwidth},
                    "expected": {
                        "operations": n_op,
                        "bytes": n_byte,
                        "floor": floor(config, m, t, operations, bandwidth, b),
                        "limit": "arithmetic" if arithmetic else longer,
                    },
                }
            )
    assert len({case["expected"]["limit"] for case in golden}) == 3
    run_node_test("ledger.test.mjs", golden, tmp_path)


def test_a_machine_of_the_reader_s():
    figure = widgets.Roofline(machines={"mine": (2e12, 5e10)}, batch=3, tokens=77)
    assert figure.machines == [["mine", 2e12, 5e10]]
    assert (figure.batch, figure.tokens, figure.bytes_per_number) == (3, 77, 4)


WRONG = [
    ({"batch": 0}, "batch=0 must be an integer from 1 to 256", ValueError),
    ({"batch": 1.5}, "batch=1.5 must be an integer", TypeError),
    ({"tokens": 1001}, "tokens=1001 must be an integer from 1 to 1000", ValueError),
    ({"bytes_per_number": 3}, "bytes_per_number=3 must be 4, 2 or 1", ValueError),
    ({"config": SimpleNamespace(n_layer=2)}, "must be a GPT2Config", TypeError),
    (
        {"config": SimpleNamespace(n_layer=0, n_embd=4, vocab_size=9)},
        "config.n_layer=0 must be an integer >= 1",
        ValueError,
    ),
    ({"machines": {}}, "machines={} must map at least one name", TypeError),
    ({"machines": {"a": 5.0}}, "machines['a']=5.0 must be a pair", ValueError),
    (
        {"machines": {"a": (1e9, 0)}},
        "bytes a second of a=0 must be a number > 0",
        ValueError,
    ),
]


@pytest.mark.parametrize(("settings", "message", "kind"), WRONG)
def test_what_cannot_be_shown_is_refused(settings, message, kind):
    with pytest.raises(kind, match=re.escape(message)):
        widgets.Roofline(**settings)
