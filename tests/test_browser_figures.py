"""Each live figure of the built book: it moves, and what it says is what `lib` says.

The figures are used with the keyboard alone, on a phone's screen. After every move the
numbers of the figure's sentence are computed again by the library, or by the chapter's
own functions, from the data that the page carries and from what its controls show.
"""

from __future__ import annotations

import base64
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from chapter_code import functions
from served import ROOT, drive
from transformers import GPT2Config

import lib

WIDGETS = "application/vnd.jupyter.widget-state+json"


class Shown:
    """The state that a notebook stores of its live figure, and so the page carries."""

    def __init__(self, notebook: str) -> None:
        text = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf-8")
        models = json.loads(text)["metadata"]["widgets"][WIDGETS]["state"].values()
        (model,) = [m for m in models if m["model_module"] == "anywidget"]
        self.state = model["state"]
        if "vocab" not in self.state:
            return  # a figure of a machine, not of logits
        (buffer,) = model["buffers"]
        numbers = np.frombuffer(base64.b64decode(buffer["data"]), dtype="<f4")
        self.logits = torch.tensor(numbers).view(-1, self.state["vocab"])
        self.words = json.loads(self.state["words"])

    def row(self, controls):
        return self.logits[self.state["names"].index(controls["Step"])]

    def visible(self, token):
        return re.sub(r"^ | ", "␣", self.words[token]).replace("\n", "↵")


def number(text):
    return 0.0 if text in ("off", "< 0.0001") else float(text.replace(",", ""))


def near(text, value, digits=3):
    """Whether a written number is this value, rounded."""
    assert number(text) == pytest.approx(value, abs=0.51 * 10**-digits + 1e-4), text


def read(pattern, says):
    match = re.search(pattern, says)
    assert match, f"{says!r} does not hold {pattern}"
    return match.groups()


def softmax(shown, says, controls):
    words = [shown.visible(v) for v in range(len(shown.words))]
    z = torch.tensor([number(controls[w].replace("−", "-")) for w in words]).double()
    a, b = words.index(controls["Odds of"]), words.index(controls["against"])
    p = lib.softmax(z)
    odds, lse, H = read(r"= (\S+)\. Log-sum-exp is (\S+), the entropy (\S+) nats", says)
    # Controls show two decimals, the figure counts with what stands behind them.
    assert float(odds) == pytest.approx(float(p[a] / p[b]), rel=0.02)
    near(lse.replace("−", "-"), float(z.logsumexp(0)), 1)
    near(H, float(lib.entropy(z)), 1)


def temperature(shown, says, controls):
    z = shown.row(controls)
    T = number(controls["Temperature T"])
    p = lib.softmax(lib.apply_temperature(z.double(), T))
    word, mass, H = read(
        r"best token, (.+), has probability (\S+); .* is (\S+) nats", says
    )
    assert word == shown.visible(int(z.argmax()))
    near(mass, float(p.max()))
    near(H, float(lib.entropy(lib.apply_temperature(z.double(), T))), 2)


def truncated(shown, says, stage):
    for name, z in zip(shown.state["names"], shown.logits.double(), strict=True):
        kept, mass, removed, lost = read(
            rf"“{re.escape(name)}”: (\S+) kept \(mass (.+?)\), (\S+) removed "
            r"\(total variation (.+?)\)",
            says,
        )
        before, after = stage(z)
        alive = after > -torch.inf
        assert number(kept) == int(alive.sum())
        assert number(removed) == int((~alive).sum())
        held = float(lib.softmax(before)[alive].sum())
        near(mass, held)
        near(lost, 1 - held)


def top_k(shown, says, controls):
    k = int(number(controls["Keep best k"]))
    truncated(shown, says, lambda z: (z, lib.apply_top_k(z, k)))


def top_p(shown, says, controls):
    T, mass = number(controls["Temperature T"]), number(controls["Mass ρ"])

    def stage(z):
        heated = lib.apply_temperature(z, T)
        return heated, lib.apply_top_p(heated, mass)

    truncated(shown, says, stage)


def ngram_ban(shown, says, controls):
    t, n = int(controls["Position t"]), int(controls["Order n"])
    z = shown.logits[t - 1].double()
    history = torch.tensor([shown.state["text"][:t]])
    gone = lib.apply_no_repeat_ngram(history, z[None], n)[0] == -torch.inf
    if not gone.any():
        assert "nothing is banned" in says
        return
    (mass,) = read(r"in all (.+?) of the probability", says)
    near(mass, float(lib.softmax(z)[gone].sum()))
    best = int(z[:-1].argmax())  # the last column stands for all other tokens
    assert ("is banned" in says) == bool(gone[best])


def selection(shown, says, controls):
    z = shown.row(controls)
    settings = {
        "temperature": number(controls["Temperature T"]),
        "top_k": int(number(controls["top_k"])),
        "top_p": number(controls["top_p"]) or 1.0,
    }
    pipeline = lib.build_pipeline(lib.SamplingSettings(do_sample=True, **settings))
    step = shown.state["names"].index(controls["Step"])
    count = shown.state["draws"]
    u = lib.uniforms(int(controls["Seed"]), range(count), [step])[:, 0]
    rows = z.expand(count, -1)
    history = torch.zeros((count, 1), dtype=torch.long)
    after = pipeline(history, rows, u)
    changed, all_, often, least = read(
        r"(\d+) of (\d+) draws change .* run (\S+) %.* total variation, (\S+) %", says
    )
    assert int(all_) == count
    assert int(changed) == int((after != lib.sample(rows, u)).sum())
    final = pipeline.process(lib.Step(history[:1]), z[None])[0].double()
    p, q = lib.softmax(z.double()), lib.softmax(final)
    assert number(least) == pytest.approx(50 * float((p - q).abs().sum()), abs=0.6)
    F, G = p.cumsum(-1), q.cumsum(-1)
    same = (torch.minimum(F, G) - torch.maximum(F - p, G - q)).clamp_min(0).sum()
    assert number(often) == pytest.approx(100 * (1 - float(same)), abs=0.6)


STAGES = {
    "n-gram ban": "no_repeat_ngram",
    "temperature": "temperature",
    "top-k": "top_k",
    "top-p": "top_p",
}


def generator(shown, says, controls):
    index = shown.state["names"].index(controls["Step"])
    settings = lib.SamplingSettings(
        do_sample=True,
        no_repeat_ngram_size=int(number(controls["Order n"])),
        temperature=number(controls["Temperature T"]),
        top_k=int(number(controls["top_k"])),
        top_p=number(controls["top_p"]) or 1.0,
    )
    standard = lib.build_pipeline(settings)
    stages = {stage.name: stage for stage in standard.stages}
    (order,) = read(r"Order: (.+?)(?: \(the standard\))?\. ", says)
    names = [STAGES[title] for title in order.split(", ")]
    here = lib.Pipeline([stages[n] for n in names if n in stages], do_sample=True)

    step = lib.Step(torch.tensor([shown.state["histories"][index]]))
    z = shown.logits[index][None]
    u = torch.tensor([number(controls["Luck u"])], dtype=torch.float64)

    def check(pattern, pipeline):
        left, drawn = read(pattern, says)
        kept = pipeline.process(step, z) > -torch.inf
        assert number(left) == int(kept.sum())
        assert drawn == shown.visible(int(pipeline(step.input_ids, z, u)))
        return kept

    try:
        here.process(step, z)
    except lib.EmptySupportError:
        assert "Nothing is left after the" in says
        check(r"standard order leaves (\S+) tokens? and draws (\S+)\.", standard)
        return
    kept = check(r"(\S+) tokens? left; u = \S+ draws (\S+)\.", here)
    usual = standard.process(step, z) > -torch.inf
    assert ("(the standard)" in says) == (names == list(STAGES.values()))
    assert ("The order matters" in says) == (not torch.equal(kept, usual))
    if "The order matters" in says:
        check(r"standard order keeps (\S+) \(.* and draws (\S+)\.", standard)


LARGE = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
LARGE |= {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def roofline(shown, says, controls):
    ledger, floor = functions("08_fast", "ledger", "floor")
    limits = {name: pair for name, *pair in shown.state["machines"]}
    name, bandwidth, read_unit, phi, unit = read(
        r"^(.+): (\S+) (\wB)/s, (\S+) (\w+) op/s$", controls["Machine"]
    )
    operations, psi = limits[name]
    assert number(phi) * LARGE[unit] == operations
    assert number(bandwidth) * LARGE[read_unit] == psi
    m, t = (int(number(controls[label])) for label in ("Batch m", "Tokens t"))
    b = int(controls["Bytes b"].split(",")[0])
    config = GPT2Config()  # the chapter's: 124 million weights
    n_op, n_byte = ledger(config, m, t, b)
    seconds = floor(config, m, t, operations, psi, b)

    def same(text, value):  # three digits
        assert number(text) == pytest.approx(value, rel=0.005), text

    who, texts, ops, ops_unit, size, size_unit, intensity, ridge, batch = read(
        r"On (.+), a step of (\d+) texts? does (\S+) (\w+) operations and reads (\S+) "
        r"(\wB): (\S+) operations a byte; the ridge lies at (\S+), m\* = (\S+)\. ",
        says,
    )
    took, speed, limit = read(
        r"at least (\S+) ms, so (\S+) tokens a second at best\. What limits: (.+)\.$",
        says,
    )
    assert (who, int(texts)) == (name, m)
    same(str(number(ops) * LARGE[ops_unit]), n_op)
    same(str(number(size) * LARGE[size_unit]), n_byte)
    same(intensity, n_op / n_byte)
    same(ridge, operations / psi)
    same(batch, b * operations / 2 / psi)  # (8.4)
    same(took, 1e3 * seconds)
    same(speed, m / seconds)
    weights = b * ledger(config, 1, 0)[0] / 2
    longer = "weights" if 2 * weights >= n_byte else "caches"
    arithmetic = n_op / operations > n_byte / psi
    assert limit == ("arithmetic" if arithmetic else f"reading {longer}")


# A control by its label, a key, and how often it is pressed.
FIGURES = {
    "01_softmax": (
        softmax,
        [("shift all", "ArrowRight", 20), ("Odds of", "ArrowDown", 1)],
    ),
    "02_temperature": (
        temperature,
        [("Temperature T", "ArrowLeft", 30), ("Step", "ArrowDown", 1)],
    ),
    "03_top_k": (
        top_k,
        [("Keep best k", "ArrowRight", 12), ("Keep best k", "Home", 1)],
    ),
    "04_top_p": (
        top_p,
        [("Mass ρ", "ArrowLeft", 10), ("Temperature T", "ArrowRight", 20)],
    ),
    "05_ngram_ban": (
        ngram_ban,
        [("Position t", "ArrowLeft", 7), ("Order n", "ArrowLeft", 1)],
    ),
    "06_greedy_vs_sampling": (
        selection,
        [
            ("Temperature T", "ArrowLeft", 20),
            ("top_p", "ArrowLeft", 20),
            ("Seed", "End", 1),
        ],
    ),
    "07_generator": (
        generator,
        [
            ("Temperature T", "ArrowLeft", 30),
            ("top_p", "ArrowRight", 8),
            ("Luck u", "Home", 1),
            ("temperature: later", "Enter", 1),  # behind top-k: the same tokens
            ("temperature: later", "Enter", 1),  # behind top-p: others
            ("n-gram ban: later", "Enter", 3),
            ("top_k", "Home", 1),  # and the ban, now the last, leaves nothing
        ],
    ),
    "08_fast": (
        roofline,
        [
            ("Batch m", "ArrowRight", 2),  # 16 texts: their caches
            ("Batch m", "End", 1),  # arithmetic
            ("Tokens t", "Home", 1),
            ("Machine", "ArrowDown", 2),
            ("Bytes b", "ArrowDown", 1),
            ("Batch m", "ArrowLeft", 1),  # 128 texts: weights again
        ],
    ),
}


@pytest.fixture(scope="module")
def uses():
    orders = [
        {"page": f"notebooks/{name}.html", "moves": moves}
        for name, (_, moves) in FIGURES.items()
    ]
    answer = drive("figures.mjs", orders=orders)
    return {name: answer[f"notebooks/{name}.html"] for name in FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_the_figure_opens_without_an_error_or_another_host(uses, name):
    assert not uses[name]["errors"]
    assert not uses[name]["outside"]
    assert uses[name]["wider"] <= 1


@pytest.mark.parametrize("name", FIGURES)
def test_jupyterlab_leaves_the_keys_to_the_controls(uses, name):
    assert uses[name]["unguarded"] == 0


@pytest.mark.parametrize("name", FIGURES)
def test_the_libraries_come_when_the_figure_is_near(uses, name):
    assert uses[name]["early"] == 0


@pytest.mark.parametrize("name", FIGURES)
def test_every_move_is_drawn_said_and_spoken(uses, name):
    readings = uses[name]["readings"]
    assert len(readings) == 1 + len(FIGURES[name][1])
    moves = FIGURES[name][1]
    for (label, _, _), (before, after) in zip(moves, pairwise(readings), strict=True):
        if label in before["controls"]:  # not a button: one may change words alone
            assert after["controls"] != before["controls"]
            assert after["drawn"] != before["drawn"]
        assert after["says"] != before["says"]
        assert after["heard"] == after["picture"] == after["says"]


@pytest.mark.parametrize("name", FIGURES)
def test_the_numbers_are_those_of_the_library(uses, name):
    recompute, _ = FIGURES[name]
    shown = Shown(name)
    for reading in uses[name]["readings"]:
        recompute(shown, reading["says"], reading["controls"])
