"""The checkers: right functions pass, wrong ones are caught, known ones named."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient

import lib
from lib import check

ROOT = Path(__file__).resolve().parents[1]
# A generator's first argument is a model: see tests/test_check_generator.py.
CHECKERS = [name for name in check.__all__ if name not in ("Result", "generate")]


def rows(function):
    """A function of one row of numbers, applied to every row by a plain loop."""

    def looped(z):
        return function(z.tolist()) if z.ndim == 1 else [looped(row) for row in z]

    return looped


# ── Right functions, in other styles ────────────────────────────────────────────────


def softmax_in_numpy(logits):
    z = np.asarray(logits)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@rows
def softmax_in_loops(z):
    top = max(z)
    e = [math.exp(x - top) for x in z]
    return [x / sum(e) for x in e]


def log_softmax_in_numpy(logits):
    z = np.asarray(logits)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@rows
def log_softmax_in_loops(z):
    top = max(z)
    lse = top + math.log(sum(math.exp(x - top) for x in z))
    return [x - lse for x in z]


def softmax_by_pairs(z):
    # 1 / sum_w e^(z_w - z_v): no maximum anywhere, since 1/inf is the right 0.
    with np.errstate(all="ignore"):
        z = z[..., None, :] - z[..., :, None]
    return 1 / z.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).exp().sum(
        -1
    )


def entropy_in_numpy(logits):
    p = softmax_in_numpy(logits)
    with np.errstate(all="ignore"):
        return -np.where(p > 0, p * np.log(p), 0).sum(-1)


@rows
def entropy_in_loops(z):
    p = softmax_in_loops(torch.tensor(z, dtype=torch.float64))
    return -sum(x * math.log(x) for x in p if x > 0)


RIGHT = {
    "softmax": [
        lib.softmax,
        softmax_in_numpy,
        softmax_in_loops,
        softmax_by_pairs,
        lambda z: torch.softmax(z, dim=-1),
        lambda z: (z - z.logsumexp(-1, keepdim=True)).exp(),
        lambda z: torch.softmax(z.double(), dim=-1),
        lambda z: torch.softmax(z.clone().requires_grad_(), dim=-1),
    ],
    "log_softmax": [
        lib.log_softmax,
        lambda z: z - z.logsumexp(-1, keepdim=True),
        log_softmax_in_numpy,
        log_softmax_in_loops,
    ],
    "entropy": [
        lib.entropy,
        entropy_in_numpy,
        entropy_in_loops,
        lambda z: -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).nansum(-1),
        lambda z: torch.distributions.Categorical(logits=z.clamp_min(-1e4)).entropy(),
        lambda z: torch.special.entr(torch.softmax(z, -1)).sum(-1),
        # lse(z) - sum p z
        lambda z: (
            z.logsumexp(-1)
            - torch.where(z > -torch.inf, torch.softmax(z, -1) * z, 0.0).sum(-1)
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, functions in RIGHT.items() for i in range(len(functions))],
)
def test_right_functions_pass_in_any_style(name, number):
    result = getattr(check, name)(RIGHT[name][number])
    assert result, result
    assert result.passed is True
    assert repr(result) == f"✓ {name}: right on all {result.tried} inputs."


# ── Wrong functions: each must be caught and named ──────────────────────────────────


def mutating(z):
    z -= z.max(-1, keepdim=True).values
    return z.exp() / z.exp().sum(-1, keepdim=True)


def naive(z):
    return z.exp() / z.exp().sum(-1, keepdim=True)


def naive_in_numpy(z):
    e = np.exp(np.asarray(z))
    return e / e.sum(-1, keepdims=True)


def entropy_of(p):
    return -(p * p.log()).sum(-1)


def in_64_then_32(function):
    return lambda z: function(z).float()


WRONG = {
    "softmax": [
        (naive, "no maximum subtracted"),
        (naive_in_numpy, "no maximum subtracted"),
        (lambda z: naive(z - z.mean(-1, keepdim=True)), "the mean is subtracted"),
        (lambda z: naive(z - z.min(-1, keepdim=True).values), "the minimum is"),
        (lambda z: naive(z - z.max()), "one maximum for the whole batch"),
        (lambda z: F.softmax(z, dim=0), "over dim 0"),
        (lambda z: F.softmax(z, dim=1), "dim 1 is the vocabulary only"),
        (lambda z: z.flatten().softmax(0).view_as(z), "over the whole tensor"),
        (lambda z: F.softmax(F.softmax(z, -1), -1), "applied twice"),
        (lambda z: (z - z.amax(-1, keepdim=True)).exp(), "not normalised"),
        (torch.exp, "not normalised, and"),
        (lambda z: z / z.sum(-1, keepdim=True), "the exponential is missing"),
        (lambda z: F.softmax(-z, -1), "the sign is reversed"),
        (lambda z: 2**z / (2**z).sum(-1, keepdim=True), "base 2"),
        (lambda z: F.softmax(z * math.log(2), -1), "base 2"),
        (lambda z: F.log_softmax(z, -1), "log-probabilities returned"),
        (lambda z: F.softmax(z, -1).sort(descending=True)[0], "rank in place"),
        (lambda z: F.softmax(z / 1e-3, -1), "a hard maximum"),
        (in_64_then_32(lib.softmax), "less precise than the input"),
        (lambda z: F.softmax(z.half(), -1), "less precise than the input"),
        (mutating, "changes its argument in place"),
    ],
    "log_softmax": [
        (lambda z: F.softmax(z, -1).log(), "underflowed to 0"),
        (lambda z: naive(z).log(), "without the maximum"),
        (lambda z: z - z.exp().sum(-1, keepdim=True).log(), "no maximum subtracted"),
        (lambda z: (F.softmax(z, -1) + 1e-9).log(), "small number is added"),
        (lambda z: F.softmax(z, -1).clamp_min(1e-12).log(), "small number is added"),
        (lambda z: F.softmax(z, -1), "the logarithm is missing"),
        (lambda z: z - z.amax(-1, keepdim=True), "the log of the sum is missing"),
        (
            lambda z: (
                (y := z - z.amax(-1, keepdim=True)) - y.exp().sum(-1, keepdim=True)
            ),
            "not its logarithm",
        ),
        (
            lambda z: (
                z - (z - z.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True).log()
            ),
            "the maximum is not put back",
        ),
        (lambda z: -F.log_softmax(z, -1), "the sign is reversed"),
        (lambda z: F.log_softmax(z, -1) / math.log(2), "bits in place of nats"),
        (lambda z: F.log_softmax(z, -1) / math.log(10), "base 10"),
        (
            lambda z: (y := z - z.max()) - y.exp().sum(-1, keepdim=True).log(),
            "one maximum for the whole batch",
        ),
        (lambda z: F.log_softmax(z, 0), "over dim 0"),
        (lambda z: F.log_softmax(z, 1), "dim 1 is the vocabulary only"),
        (lambda z: z - torch.logsumexp(z.flatten(), 0), "over the whole tensor"),
        (in_64_then_32(lib.log_softmax), "less precise than the input"),
        (lambda z: z.sub_(z.logsumexp(-1, keepdim=True)), "changes its argument"),
    ],
    "entropy": [
        (lambda z: entropy_of(F.softmax(z, -1)), "0 log 0"),
        (
            lambda z: -(F.log_softmax(z, -1).exp() * F.log_softmax(z, -1)).sum(-1),
            "0 log 0",
        ),
        (lambda z: entropy_of(naive(z)), "no maximum subtracted, and 0 log 0"),
        (lambda z: torch.special.entr(naive(z)).sum(-1), "no maximum subtracted"),
        (lambda z: lib.entropy(z) / math.log(2), "bits in place of nats"),
        (lambda z: -lib.entropy(z), "the minus sign is missing"),
        (lambda z: lib.entropy(z) / z.shape[-1], "divided by the number of tokens"),
        (lambda z: lib.entropy(z) / math.log(z.shape[-1]), "divided by log V"),
        (lambda z: lib.entropy(z).exp(), "the exponential of the entropy"),
        (entropy_of, "logits taken for probabilities"),
        (lambda z: lib.entropy(F.softmax(z, -1)), "softmax applied twice"),
        (lambda z: -F.log_softmax(z, -1).sum(-1), "the weights p are missing"),
        (lambda z: -F.softmax(z, -1).amax(-1).log(), "the best token only"),
        (lambda z: lib.entropy(z).sum(), "one number for the whole batch"),
        (lambda z: lib.entropy(z)[..., None], "the last axis is kept"),
        (lambda z: torch.special.entr(F.softmax(z, -1)), "the terms are not summed"),
        (lambda z: torch.special.entr(F.softmax(z, 0)).sum(0), "wrong axis"),
        (lambda z: torch.special.entr(F.softmax(z, -1)).sum(0), "summed over dim 0"),
        (in_64_then_32(lib.entropy), "less precise than the input"),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, functions in WRONG.items() for i in range(len(functions))],
)
def test_wrong_functions_are_caught_and_named(name, number):
    function, mistake = WRONG[name][number]
    result = getattr(check, name)(function)
    assert not result
    assert result.passed is False
    assert mistake in f"{result.mistake} {result.advice}", result
    assert result.failed >= 1
    # The counterexample is one: the function and the right one part there.
    stage = getattr(lib, name, None) or getattr(lib, f"apply_{name}")
    right = stage(*result.counterexample.values())
    assert torch.equal(right, result.expected)


def test_the_bank_is_large_enough():
    assert all(len(WRONG[name]) >= 10 and len(RIGHT[name]) >= 3 for name in RIGHT)
    assert set(WRONG) == set(RIGHT) <= set(CHECKERS)


# ── Whatever the reader's code does ─────────────────────────────────────────────────


def recursion(z, *_):
    return recursion(z)


class Nasty:
    def __repr__(self):
        raise RuntimeError("no repr either")

    __str__ = __repr__


class NastyError(Exception):
    def __str__(self):
        raise RuntimeError("no message either")


def raising(error):
    def function(z, *_):
        raise error

    return function


@pytest.mark.parametrize("name", CHECKERS)
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda z, *_: None, "return statement"),
        (lambda z, *_: "text", "type str"),
        (lambda z, *_: Nasty(), "type Nasty"),
        (lambda z, *_: {"p": z}, "type dict"),
        (lambda z, *_: [], "type list"),
        (lambda z, *_: z > 0, "a tensor of bool"),
        (lambda z, *_: (z > 0).numpy(), "an array of bool"),
        (lambda z, *_: z * 1j, "a tensor of complex"),
        (lambda z, *_: [z, z[:0]], "stack expects each tensor"),
        (lambda z, *_: 1 / 0, "ZeroDivisionError"),
        (lambda z, *_: undefined_name, "NameError"),  # noqa: F821
        (lambda: 1, "TypeError"),
        (raising(SystemExit(3)), "SystemExit"),
        (raising(GeneratorExit()), "GeneratorExit"),
        (raising(NastyError()), "NastyError"),
        (recursion, "RecursionError"),
        (lambda z, *_: z.resize_(0), "changes its argument in place"),
        (lambda z, *_: z[..., :0], "should have"),
        (torch.tensor([1.0]), "not a function"),
        (None, "not a function"),
    ],
)
def test_a_checker_never_raises_and_says_what_went_wrong(name, function, said):
    result = getattr(check, name)(function)
    assert not result
    assert said in repr(result)


def test_an_answer_in_another_layout_is_an_answer():
    assert check.softmax(lambda z: torch.softmax(z, dim=-1).to_sparse())


def test_a_keyboard_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        check.softmax(raising(KeyboardInterrupt()))


def test_warnings_of_the_readers_code_stay_quiet(recwarn):
    check.softmax(naive_in_numpy)
    assert not recwarn.list


def test_an_unknown_mistake_is_shown_but_not_named():
    result = check.softmax(lambda z: F.softmax(z, -1) ** 0.9)
    assert not result
    assert result.mistake == ""
    assert "Known mistake" not in repr(result)


def test_a_mistake_with_a_second_one_is_not_taken_for_the_first():
    result = check.softmax(lambda z: F.softmax(-z / 3, -1))
    assert "the sign is reversed" not in result.mistake


def test_the_counterexample_is_small_and_round():
    assert repr(check.softmax(naive)).splitlines()[:4] == [
        "✗ softmax: wrong on 5 of 57 inputs. The smallest found:",
        "    logits    [100]",
        "    expected  [1]",
        "    yours     [nan]",
    ]
    over_batch = check.softmax(lambda z: F.softmax(z, 0)).counterexample["logits"]
    assert over_batch.tolist() == [[0.0, 0.0]]


def test_answers_that_look_alike_get_more_digits():
    shown = repr(check.softmax(in_64_then_32(lib.softmax)))
    expected, yours = re.search(r"expected +(.*)\n +yours +(.*)", shown).groups()
    assert expected.split("  ")[0] != yours.split("  ")[0]


def test_an_input_below_1_is_not_shown_as_1():
    given = torch.tensor([1 - 2**-53, 1 - 1e-5, 0.5, 1.0, 1e-12], dtype=torch.float64)
    shown = repr(check.Result("it", False, 1, 1, {"u": given}, given, -given))
    first = re.search(r"u +\[(.*?)\]", shown).group(1)
    assert first == "0.9999999999999999, 0.99999, 0.5, 1, 1e-12"
    # An answer may be rounded: nobody types it.
    assert re.search(r"expected +\[1, 1, 0.5", shown)


def test_a_result_is_the_same_every_time():
    first, second = (check.entropy(lambda z: entropy_of(naive(z))) for _ in range(2))
    assert repr(first) == repr(second)


def test_results_fit_a_narrow_page():
    for name, functions in WRONG.items():
        for function, _ in functions:
            prose = repr(getattr(check, name)(function)).splitlines()
            assert all(len(line) <= 76 for line in prose if not line.startswith("  "))


# ── The notebooks' folded solutions ─────────────────────────────────────────────────


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def folded_code(cell):
    for folded in re.findall(r"(?s)<details>.*?</details>", cell.source):
        yield from re.findall(r"(?s)```python\n(.*?)```", folded)


def solutions():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            for code in folded_code(cell):
                for name in re.findall(r"(?m)^def my_(\w+)\(", code):
                    if name in check.__all__:
                        yield pytest.param(name, code, id=f"{path.stem}-{name}")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_folded_code_runs_where_it_stands(path):
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        cells += [cell, *map(nbformat.v4.new_code_cell, folded_code(cell))]
    notebook.cells = cells
    client = NotebookClient(notebook, resources={"metadata": {"path": path.parent}})
    client.execute()


@pytest.mark.parametrize(("name", "code"), solutions())
def test_folded_solutions_satisfy_their_checker(name, code):
    space = {"torch": torch, "np": np, "math": math, "lib": lib}
    exec(code, space)  # the book's own text
    result = getattr(check, name)(space[f"my_{name}"])
    assert result, result


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
