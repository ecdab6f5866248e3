"""The page "The same knobs elsewhere": each of its claims on what can be run here.

Every cell of the rows `transformers` and `lib` is read from the page, and a function
below holds it against the installed version; a cell without one, or with other words
than its function was written for, is an error.
"""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from model_zoo import CONTEXT, VOCAB, random_model
from transformers import (
    GenerationConfig,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
    set_seed,
)

import lib
from lib import (
    EmptySupportError,
    SamplingSettings,
    apply_no_repeat_ngram,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    softmax,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "elsewhere.md").read_text("utf-8")
PROGRAMS = ["lib", "transformers", "vLLM", "llama.cpp", "mlx-lm", "OpenAI API"]
ASSERTED = PROGRAMS[:2]


def tables():
    """Each section's table: {heading: {first cell: the other cells}}."""
    out = {}
    for part in re.split(r"(?m)^## ", PAGE)[1:]:
        heading, text = part.split("\n", 1)
        rows = re.findall(r"(?m)^\| (.*) \|$", text)
        cells = [[cell.strip() for cell in row.split(" | ")] for row in rows]
        if cells and cells[0][0] == "program":
            out[heading] = {first.strip("`"): rest for first, *rest in cells[1:]}
    return out


TABLES = tables()
QUESTIONS = {
    heading: rows
    for heading, rows in TABLES.items()
    if heading not in ("What was read", "A worked example")
}
CHECKS = {}


def cell(heading, program, *words):
    """Register a check of the cell(s) with exactly these words."""

    def register(check):
        assert (heading, program) not in CHECKS
        CHECKS[heading, program] = (list(words), check)
        return check

    return register


@pytest.mark.parametrize("program", ASSERTED)
@pytest.mark.parametrize("heading", QUESTIONS)
def test_the_cell_is_true(heading, program, model):
    words, check = CHECKS[heading, program]
    assert QUESTIONS[heading][program] == words, "the page says something else"
    check(model)


def test_every_check_belongs_to_a_cell():
    assert {heading for heading, _ in CHECKS} == set(QUESTIONS)
    assert len(CHECKS) == len(ASSERTED) * len(QUESTIONS)


def test_every_table_has_a_row_for_every_program():
    assert len(QUESTIONS) == 13
    for heading, rows in {**QUESTIONS, "": TABLES["What was read"]}.items():
        names = [re.sub(r"`| \{cite.*", "", name) for name in rows]
        assert names == PROGRAMS, heading


def test_the_version_on_the_page_is_the_pinned_one():
    (pin,) = re.findall(
        r"(?m)^transformers==(\S+)", (ROOT / "requirements.txt").read_text("utf-8")
    )
    (said,) = [
        rest[0]
        for name, rest in TABLES["What was read"].items()
        if name.startswith("transformers")
    ]
    assert said == pin


# Tools


@pytest.fixture(scope="module")
def model():
    """A small random GPT-2 that repeats nothing."""
    return random_model("gpt2")


@pytest.fixture(autouse=True)
def luck():
    """Tests of somebody's global generator leave it as they found it."""
    with torch.random.fork_rng(devices=[]):
        yield


def prompt(rows=1, length=3):
    return torch.arange(1, rows * length + 1).reshape(rows, length)


UNSET = object()  # not passed, as distinct from None


def theirs(model, ids=None, **settings):
    """`model.generate` with everything neutral but these settings."""
    neutral = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": 1}
    ids = prompt() if ids is None else ids
    given = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    settings = {**neutral, **given, **settings}
    settings = {name: value for name, value in settings.items() if value is not UNSET}
    with torch.no_grad():
        return model.generate(ids, **settings)


def their_support(model, **settings):
    out = theirs(
        model,
        do_sample=True,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    return kept(out.scores[0])


def kept(logits):
    return (logits.reshape(-1) > -torch.inf).nonzero().flatten().tolist()


def logits_of(*probabilities):
    return torch.tensor([probabilities]).log()


def pairs(text):
    """`name=value` in the words of a cell."""
    found = re.findall(r"`(\w+)=([\w.]+)`", text)
    return {
        name: {"True": True, "False": False}.get(v) or _number(v) for name, v in found
    }


def _number(text):
    return False if text == "False" else float(text)


# If you set nothing


@cell(
    "If you set nothing",
    "lib",
    "`do_sample=False`, `temperature=1.0`, `top_k=0`, `top_p=1.0`, "
    "`no_repeat_ngram_size=0`",
)
def our_defaults(model):
    said = pairs(QUESTIONS["If you set nothing"]["lib"][0])
    assert len(said) == 5
    parameters = inspect.signature(lib.generate).parameters
    for name, value in said.items():
        assert getattr(SamplingSettings(), name) == value
        assert parameters[name].default == value


@cell(
    "If you set nothing",
    "transformers",
    "`do_sample=False`, `temperature=1.0`, `top_k=50`, `top_p=1.0`, "
    "`repetition_penalty=1.0`, `no_repeat_ngram_size=0`; a model's "
    "`generation_config` comes before these",
)
def their_defaults(model):
    said = pairs(QUESTIONS["If you set nothing"]["transformers"][0])
    assert len(said) == 6
    defaults = GenerationConfig._get_default_generation_params()
    assert {name: defaults[name] for name in said} == said
    # What they do, on a model whose configuration sets nothing:
    unset = {"top_k": UNSET, "top_p": UNSET, "temperature": UNSET}
    assert len(their_support(model, **unset)) == 50 < VOCAB
    assert torch.equal(theirs(model, **unset), theirs(model, do_sample=False))
    before = model.generation_config.top_k
    model.generation_config.top_k = 7
    try:
        assert len(their_support(model, **unset)) == 7
    finally:
        model.generation_config.top_k = before


# How long


@cell("How long", "lib", "to the end of the sequence or of the context")
def our_length(model):
    assert lib.generate(model, prompt(), eos_token_id=-1).shape == (1, CONTEXT)
    text = lib.generate(model, prompt(), eos_token_id=-1)[0].tolist()
    end = next(i for i in range(3, CONTEXT) if text[i] not in text[:i])
    stopped = lib.generate(model, prompt(), eos_token_id=text[end], pad_token_id=0)
    assert stopped[0].tolist() == text[: end + 1]


@cell("How long", "transformers", "20 new tokens, and a warning")
def their_length(model):
    for length in (3, 30):
        ids = prompt(length=length)
        with pytest.warns(UserWarning, match="max_new_tokens"):
            out = theirs(model, ids, max_new_tokens=UNSET, do_sample=False)
        assert out.shape[1] == length + 20


# Temperature 0


@cell(
    "Temperature 0",
    "lib",
    "`ValueError` with advice when sampling; any T > 0, integers too",
)
def our_temperature_0(model):
    with pytest.raises(ValueError, match=r"do_sample=False for greedy"):
        lib.generate(model, prompt(), do_sample=True, temperature=0, max_new_tokens=1)
    lib.generate(model, prompt(), do_sample=True, temperature=2, max_new_tokens=1)
    z = torch.tensor([[1.0, 2.0]])
    assert softmax(apply_temperature(z, 1e-300)).tolist() == [[0.0, 1.0]]
    with pytest.raises(ValueError, match="temperature"):
        apply_temperature(z, -1.0)


@cell(
    "Temperature 0",
    "transformers",
    "`ValueError` when sampling, also for an integer such as `temperature=2`; "
    "`temperature=1` passes",
)
def their_temperature_0(model):
    for value in (0.0, 2, -1.0):
        with pytest.raises(ValueError, match="strictly positive float"):
            theirs(model, do_sample=True, temperature=value)
    theirs(model, do_sample=True, temperature=1)


# The order of the rules


@cell(
    "The order of the rules",
    "lib",
    "bans, temperature, top-k, top-p; another order can be given",
)
def our_order(model):
    pipeline = lib.build_pipeline(
        SamplingSettings(
            do_sample=True,
            temperature=0.5,
            top_k=3,
            top_p=0.75,
            no_repeat_ngram_size=2,
            min_new_tokens=1,
            eos_token_id=(0,),
        )
    )
    assert [stage.name for stage in pipeline.stages] == [
        *["min_new_tokens", "no_repeat_ngram"],
        *["temperature", "top_k", "top_p"],
    ]
    lib.Pipeline(pipeline.stages[::-1], do_sample=True)


@cell(
    "The order of the rules",
    "transformers",
    "penalties and bans, temperature, top-k, top-p, min-p; fixed",
)
def their_order(model):
    config = GenerationConfig(
        do_sample=True,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        min_p=0.1,
    )
    made = model._get_logits_processor(
        config, input_ids_seq_length=3, logits_processor=[], device="cpu"
    )
    assert [type(stage).__name__ for stage in made] == [
        "RepetitionPenaltyLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
    ]


# Top-p


@cell(
    "Top-p: the token that reaches the mass",
    "lib",
    "kept if the mass above is < ρ: of (½, ¼, ¼), ρ = ½ keeps 1",
)
def our_boundary(model):
    assert kept(apply_top_p(logits_of(0.5, 0.25, 0.25), 0.5)) == [0]
    assert kept(apply_top_p(logits_of(0.5, 0.3, 0.2), 0.51)) == [0, 1]


@cell(
    "Top-p: the token that reaches the mass",
    "transformers",
    "kept if the mass above is < ρ: of (½, ¼, ¼), ρ = ½ keeps 1",
)
def their_boundary(model):
    assert kept(TopPLogitsWarper(0.5)(None, logits_of(0.5, 0.25, 0.25))) == [0]
    assert kept(TopPLogitsWarper(0.51)(None, logits_of(0.5, 0.3, 0.2))) == [0, 1]


@cell(
    "Top-p: ties at the boundary",
    "lib",
    "both stay: of (½, ¼, ¼), ρ = 0.6 keeps 3",
)
def our_ties(model):
    assert kept(apply_top_p(logits_of(0.5, 0.25, 0.25), 0.6)) == [0, 1, 2]


@cell(
    "Top-p: ties at the boundary",
    "transformers",
    "cut by position in the sorted list: of (½, ¼, ¼), ρ = 0.6 keeps 2",
)
def their_ties(model):
    left = kept(TopPLogitsWarper(0.6)(None, logits_of(0.5, 0.25, 0.25)))
    assert left in ([0, 1], [0, 2])


@cell("Top-p of 0 and of 1", "lib", "0: error; 1: off")
def our_ends(model):
    z = logits_of(0.5, 0.3, 0.2)
    with pytest.raises(ValueError, match=r"top_p=1\.0 to switch top-p off"):
        apply_top_p(z, 0.0)
    assert torch.equal(apply_top_p(z, 1.0), z)


@cell("Top-p of 0 and of 1", "transformers", "0: 1 token; 1: off")
def their_ends(model):
    assert len(their_support(model, top_p=0.0)) == 1
    assert len(their_support(model, top_p=1.0)) == VOCAB
    assert len(their_support(model, top_p=1.5)) == VOCAB  # said below the table


# Top-k


@cell("Top-k: ties", "lib", "all stay: of (2, 1, 1), k = 2 keeps 3")
def our_top_k_ties(model):
    assert kept(apply_top_k(torch.tensor([[2.0, 1.0, 1.0]]), 2)) == [0, 1, 2]


@cell("Top-k: ties", "transformers", "all stay: of (2, 1, 1), k = 2 keeps 3")
def their_top_k_ties(model):
    z = torch.tensor([[2.0, 1.0, 1.0]])
    assert kept(TopKLogitsWarper(2)(None, z)) == [0, 1, 2]


@cell("Top-k larger than the vocabulary", "lib", "all stay", "`top_k=0`")
def our_large_k(model):
    z = torch.tensor([[2.0, 1.0, 0.0]])
    for k in (4, 0):
        assert torch.equal(apply_top_k(z, k), z)


@cell("Top-k larger than the vocabulary", "transformers", "all stay", "`top_k=0`")
def their_large_k(model):
    for k in (VOCAB + 1, 0):
        assert len(their_support(model, top_k=k)) == VOCAB


# Repetition

PADDED = torch.tensor([[0, 0, 0, 7, 0]])  # three pads, then the text 7 0
MASK = torch.tensor([[0, 0, 0, 1, 1]])


@cell(
    "Repeated n-grams",
    "lib",
    "`no_repeat_ngram_size`; prompt counts, padding does not",
)
def our_ban(model):
    z = torch.zeros(1, 9)
    ids = torch.tensor([[1, 2, 3, 1]])
    assert 2 not in kept(apply_no_repeat_ngram(ids, z, 2))
    assert len(kept(apply_no_repeat_ngram(PADDED, z, 2, MASK))) == 9


@cell(
    "Repeated n-grams",
    "transformers",
    "`no_repeat_ngram_size`; prompt counts, and so does padding",
)
def their_ban(model):
    z = torch.zeros(1, 9)
    ids = torch.tensor([[1, 2, 3, 1]])
    assert 2 not in kept(NoRepeatNGramLogitsProcessor(2)(ids, z))
    assert 0 not in kept(NoRepeatNGramLogitsProcessor(2)(PADDED, z))  # "pad pad"


@cell("Penalties for repeated tokens", "lib", "none so far")
def our_penalties(model):
    assert not [n for n in inspect.signature(lib.generate).parameters if "penal" in n]


@cell(
    "Penalties for repeated tokens",
    "transformers",
    "`repetition_penalty`: positive logits divided, negative ones multiplied; "
    "prompt and text",
)
def their_penalties(model):
    z = torch.tensor([[4.0, -4.0, 4.0, -4.0]])
    out = RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([[0, 1]]), z.clone())
    assert out.tolist() == [[2.0, -8.0, 4.0, -4.0]]
    out = theirs(
        model,
        repetition_penalty=2.0,
        do_sample=False,
        max_new_tokens=2,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    for scores, raw, history in zip(
        out.scores, out.logits, (prompt()[0], out.sequences[0, :-1]), strict=True
    ):
        changed = (scores != raw)[0].nonzero().flatten().tolist()
        assert changed == sorted(set(history.tolist()))


def test_a_repetition_penalty_depends_on_where_the_logits_have_their_zero():
    z = torch.tensor([[2.0, 1.0, 0.5]])
    seen = torch.tensor([[0]])
    after = [
        softmax(RepetitionPenaltyLogitsProcessor(1.5)(seen, z + shift))[0, 0].item()
        for shift in (5.0, -5.0)
    ]
    assert torch.allclose(softmax(z + 5), softmax(z - 5), atol=1e-6)
    assert abs(after[0] - after[1]) > 0.05


# Seeds


@cell(
    "Seeds",
    "lib",
    "`seed=`, one for all prompts or one each; a prompt's text does not depend on "
    "its batch",
)
def our_seeds(model):
    two = prompt(rows=2)
    settings = {"do_sample": True, "max_new_tokens": 8, "eos_token_id": -1}
    for seed in range(20):
        alone = lib.generate(model, two[:1], seed=seed, **settings)
        batch = lib.generate(model, two, seed=[seed, seed + 1], **settings)
        assert torch.equal(alone[0], batch[0])


@cell(
    "Seeds",
    "transformers",
    "no argument; PyTorch's global generator, so that a row's text depends on its "
    "batch",
)
def their_seeds(model):
    with pytest.raises(ValueError, match="seed"):
        theirs(model, do_sample=True, seed=1)

    def first_row(ids, seed):
        set_seed(seed)
        return theirs(model, ids, do_sample=True, max_new_tokens=8)[0].tolist()

    two = prompt(rows=2)
    alone = [first_row(two[:1], seed) for seed in range(10)]
    assert alone == [first_row(two[:1], seed) for seed in range(10)]
    batch = [first_row(two, seed) for seed in range(10)]
    assert sum(a != b for a, b in zip(alone, batch, strict=True)) >= 8


# Nothing left


@cell("When no token is left", "lib", "an error that names stage, row and step")
def we_refuse_the_empty_support(model):
    with pytest.raises(EmptySupportError, match=r"no_repeat_ngram.* row 0.*step 0"):
        lib.generate(
            model,
            torch.tensor([every_id(model)]),
            no_repeat_ngram_size=1,
            max_new_tokens=1,
            eos_token_id=-1,
        )


def every_id(model):
    """A history in which every token has occurred."""
    assert VOCAB < CONTEXT
    return list(range(VOCAB))


@cell(
    "When no token is left",
    "transformers",
    "sampling: an error of PyTorch; greedy: token 0, silently",
)
def they_do_not(model):
    ids = torch.tensor([every_id(model)])
    with pytest.raises(RuntimeError, match=r"inf.*nan"):
        theirs(model, ids, do_sample=True, no_repeat_ngram_size=1)
    out = theirs(model, ids, do_sample=False, no_repeat_ngram_size=1)
    assert out[0, -1] == 0


# The worked example, by rules of a few lines on {token: logit}


def shares(z):
    weights = {v: math.exp(x) for v, x in z.items()}
    return {v: w / sum(weights.values()) for v, w in weights.items()}


def ranked(z):
    return sorted(z, key=lambda v: -z[v])


def heat(z, temperature):
    return {v: x / temperature for v, x in z.items()}


def exactly_k(z, k):
    return {v: z[v] for v in ranked(z)[:k]}


def k_with_ties(z, k):
    return {v: x for v, x in z.items() if x >= z[ranked(z)[min(k, len(z)) - 1]]}


def p_in_order(z, rho):
    """Keep a token iff those before it in the sorted list hold less than rho."""
    out, above = {}, 0.0
    for v in ranked(z):
        if above < rho:
            out[v] = z[v]
        above += shares(z)[v]
    return out


def p_with_ties(z, rho):
    """Keep a token iff those strictly better hold less than rho."""
    p = shares(z)
    return {
        v: x for v, x in z.items() if sum(p[w] for w in z if z[w] > x) < rho - 1e-12
    }


def min_p(z, rho):
    p = shares(z)
    return {v: x for v, x in z.items() if p[v] >= rho * max(p.values())}


def example():
    """The logits and the settings, as the page gives them."""
    text = PAGE.split("## A worked example\n")[1].split("\n## ")[0]
    rows = [row.split(" | ") for row in re.findall(r"(?m)^\| (.*) \|$", text)]
    logits = dict(zip(rows[0], map(float, rows[1]), strict=True))
    (settings,) = re.findall(
        r"`temperature=([\d.]+), top_k=(\d+), top_p=([\d.]+)`", text
    )
    kept_rows = {row[0]: row[1:] for row in rows if len(row) == 4}
    default_rows = {row[0]: row[1:] for row in rows if len(row) == 3}
    t, k, rho = settings
    return logits, float(t), int(k), float(rho), kept_rows, default_rows


def by_order(order, z, t, k, rho, top_k, top_p):
    rules = {
        "T": lambda z: heat(z, t),
        "k": lambda z: top_k(z, k),
        "p": lambda z: top_p(z, rho),
    }
    for name in order:
        z = rules[name](z)
    return z


RULES = {
    "`transformers`, vLLM, `lib`": (k_with_ties, p_in_order),
    "llama.cpp": (exactly_k, p_in_order),
    "mlx-lm": (exactly_k, p_with_ties),
}


@pytest.mark.parametrize("program", RULES)
def test_the_worked_example(program):
    z, t, k, rho, rows, _ = example()
    order, names, parts = rows[program]
    out = by_order(order.split(", "), z, t, k, rho, *RULES[program])
    assert sorted(out) == names.split()
    assert [f"{p:.2g}" for p in shares(out).values()] == parts.split(", ")


def test_three_programs_three_sets():
    rows = example()[4]
    assert {name: row for name, row in rows.items() if name != "program"}.keys() == (
        RULES.keys()
    )
    assert len({row[1] for row in rows.values()}) == 4  # with the heading "kept"


def test_the_worked_example_in_transformers_and_in_lib():
    z, t, k, rho, _, _ = example()
    tensor = torch.tensor([list(z.values())])
    first = TopPLogitsWarper(rho)(None, TopKLogitsWarper(k)(None, tensor / t))
    assert kept(first) == [0]
    ours = apply_top_p(apply_top_k(apply_temperature(tensor, t), k), rho)
    assert kept(ours) == [0]
    # lib in the order of llama.cpp keeps the tie; in that of mlx-lm the same three.
    late = apply_temperature(apply_top_p(apply_top_k(tensor, k), rho), t)
    assert kept(late) == [0, 1, 2]
    other = apply_temperature(apply_top_k(apply_top_p(tensor, rho), k), t)
    assert kept(other) == [0, 1, 2]


def test_the_shares_told_in_the_explanation():
    z, t, k, *_ = example()
    assert [f"{p:.2f}" for p in shares(exactly_k(heat(z, t), k)).values()] == [
        *["0.79", "0.11", "0.11"]
    ]
    assert [f"{p:.2f}" for p in shares(exactly_k(z, k)).values()] == [
        *["0.58", "0.21", "0.21"]
    ]
    p = shares(z)
    assert f"{p['a'] + p['b']:.2f}" == "0.71"
    for text in ("0.79, 0.11, 0.11", "0.58, 0.21, 0.21", "only 0.71"):
        assert text in PAGE


def test_the_worked_example_is_far_from_rounding():
    z, t, k, rho, _, _ = example()
    for start in (exactly_k(heat(z, t), k), exactly_k(z, k), z):
        total, sums = 0.0, []
        for p in shares(start).values():
            total += p
            sums.append(total)
        assert min(abs(s - rho) for s in sums) > 0.03


def test_what_each_keeps_by_default():
    z = example()[0]
    rows = example()[5]
    assert rows["`lib`, `transformers`, mlx-lm"] == ["a", "greedy"]
    assert ranked(z)[0] == "a"
    assert rows["vLLM"] == ["a b c d e f", "T = 1"]
    llama = min_p(p_in_order(exactly_k(z, 40), 0.95), 0.05)
    assert rows["llama.cpp"] == [" ".join(sorted(llama)), "T = 0.8"]


def test_a_higher_temperature_first_widens_the_nucleus():
    luck = torch.Generator().manual_seed(2)
    for z in torch.randn(50, 1, 30, generator=luck, dtype=torch.float64):
        sizes = [
            len(kept(apply_top_p(apply_temperature(z, t), 0.9)))
            for t in (0.5, 1.0, 2.0)
        ]
        assert sizes == sorted(sizes)


def test_top_p_after_top_k_keeps_no_more_than_before_it():
    luck = torch.Generator().manual_seed(3)
    for z in torch.randn(50, 1, 30, generator=luck, dtype=torch.float64):
        after = kept(apply_top_p(apply_top_k(z, 8), 0.8))
        before = kept(apply_top_k(apply_top_p(z, 0.8), 8))
        assert set(after) <= set(before)
