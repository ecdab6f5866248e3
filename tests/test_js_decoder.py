"""The JavaScript pipeline against the Python one, on golden vectors written here.

The Python side takes the path that generation takes (`Pipeline.choose`, on candidates)
for the token, and the composed stages for what each of them keeps.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from javascript import run_node_test

import lib
from lib.pipeline import Step

INF = float("inf")
NEAR = 1e-6  # how close a uniform may be to a boundary for tokens to differ


def zipf(rng, vocab):
    return -1.1 * np.log(rng.permutation(vocab) + 1.0)


KINDS = {
    "normal": lambda rng, vocab: rng.normal(size=vocab) * 3,
    "peaked": lambda rng, vocab: rng.normal(size=vocab) + 15 * (np.arange(vocab) == 0),
    "flat": lambda rng, vocab: rng.normal(size=vocab) * 0.01,
    "equal": lambda rng, vocab: np.full(vocab, rng.normal()),
    "zipf": zipf,
    "ties": lambda rng, vocab: rng.integers(-3, 4, size=vocab) / 4,
    "holes": lambda rng, vocab: np.where(
        rng.random(vocab) < 0.5, -INF, rng.normal(size=vocab)
    ),
    "far": lambda rng, vocab: rng.normal(size=vocab) * 1e4,
}


def settings_of(rng, vocab):
    """Neutral values often, extreme ones too: k beyond V, T from 0.001 to 10."""
    return {
        "do_sample": bool(rng.random() < 0.9),
        "temperature": 1.0 if rng.random() < 0.2 else float(10 ** rng.uniform(-3, 1)),
        "top_k": int(rng.choice([0, 1, 2, 5, 40, vocab, vocab + 7])),
        "top_p": 1.0 if rng.random() < 0.3 else float(rng.uniform(0.01, 1.0)),
        "no_repeat_ngram_size": int(rng.choice([0, 0, 1, 2, 3])),
        "min_new_tokens": int(rng.choice([0, 0, 4])),
        "eos_token_id": [0],
    }


def case(rng, vocab, kind):
    logits = KINDS[kind](rng, vocab).astype(np.float32)
    if not (logits > -INF).any():
        logits[0] = 0.0
    return {
        "logits": logits,
        "input_ids": rng.integers(0, min(vocab, 6), size=rng.integers(1, 40)).tolist(),
        "index": int(rng.integers(0, 8)),
        "u": float(rng.random()),
        "settings": settings_of(rng, vocab),
    }


def at_the_boundary(rng, vocab):
    """Draws and masses that fall exactly on a boundary, where only the rule decides."""
    neutral = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    base = {"input_ids": [0], "index": 0}
    equal = {"logits": np.zeros(vocab, dtype=np.float32), "settings": neutral, **base}
    logits = np.sort(rng.normal(size=vocab).astype(np.float32))[::-1].copy()
    mass = lib.softmax(torch.from_numpy(logits).double()).cumsum(0)
    crossing = [
        {"logits": logits, "u": 0.3, "settings": {**neutral, "top_p": float(m)}, **base}
        for m in mass[:-1]
    ]
    return [{**equal, "u": v / vocab} for v in range(vocab)] + crossing


def expected(case):
    """What each stage leaves, the final law, and the token that generation takes."""
    pipeline = lib.build_pipeline(lib.SamplingSettings(**case["settings"]))
    logits = torch.from_numpy(case["logits"])[None]
    step = Step(torch.tensor([case["input_ids"]]), None, case["index"])
    kept = []

    def watch(stage, before, after):
        kept.append((after[0] > -torch.inf).nonzero().flatten().tolist())

    try:
        final = pipeline.process(step, logits, watch)
    except lib.EmptySupportError as error:
        return {"empty": re.search(r"stage (\w+)", str(error))[1]}
    u = torch.tensor([case["u"]]) if pipeline.do_sample else None
    law = lib.softmax(final[0].double())
    bounds = law.cumsum(0)
    return {
        "stages": [stage.name for stage in pipeline.stages],
        "kept": kept,
        "law": law.tolist(),
        "entropy": float(lib.entropy(final[0].double())),
        "token": int(pipeline.choose(step, logits, u)),
        "near": bool(u is not None and ((bounds - case["u"]).abs() < NEAR).any()),
    }


def plain(case):
    """JSON has no -Infinity: null stands for it."""
    logits = [None if z == -INF else z for z in case["logits"].tolist()]
    return {**case, "logits": logits, "expected": expected(case)}


def test_stages_laws_and_tokens_are_those_of_the_python_pipeline(tmp_path):
    rng = np.random.default_rng(20)
    vocabularies = [1, 2, 3, 8, 17, 50] * 75 + [2048] * 6
    cases = [plain(case(rng, vocab, kind)) for vocab in vocabularies for kind in KINDS]
    cases += [plain(case(rng, 50_257, kind)) for kind in ("normal", "zipf", "ties")]
    exact = [plain(item) for v in (2, 4, 8, 16, 64) for item in at_the_boundary(rng, v)]
    cases += [
        {**item, "expected": {**item["expected"], "near": False}} for item in exact
    ]
    printed = run_node_test("decoder.test.mjs", {"cases": cases}, tmp_path)
    counts = dict(re.findall(r"(\w+)=(\d+)", printed))
    assert int(counts["cases"]) == len(cases) > 3000
    assert int(counts["empty"]) > 20  # a ban that leaves nothing is among them
    assert int(counts["sampled"]) > 2400
    # About 2 * 1e-6 a boundary: with these draws a handful at most.
    assert int(counts["near"]) < 20
    assert int(counts["flipped"]) <= int(counts["near"])


def test_uniforms_are_the_same_bit_for_bit(tmp_path):
    rng = np.random.default_rng(21)
    keys = [
        (
            int(rng.integers(0, 2**53)),
            int(rng.integers(2**32)),
            int(rng.integers(2**32)),
        )
        for _ in range(2000)
    ]
    small = [
        (s, i, t) for s in (0, 1, 2**32, 2**53 - 1) for i in (0, 9) for t in (0, 5)
    ]
    golden = [
        {"key": key, "u": lib.uniforms(key[0], [key[1]], [key[2]]).item()}
        for key in keys + small
    ]
    printed = run_node_test("decoder.test.mjs", {"uniforms": golden}, tmp_path)
    assert f"uniforms={len(golden)}" in printed


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"do_sample": True, "temperature": 0}, "temperature=0"),
        ({"do_sample": True, "temperature": math.nan}, "temperature=NaN"),
        ({"do_sample": True, "top_p": 1.5}, "top_p=1.5"),
        ({"do_sample": True, "top_p": 0}, "top_p=0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": 2.5}, "top_k=2.5"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size=-2"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says, tmp_path):
    written = {k: None if v != v else v for k, v in settings.items()}
    golden = {"refused": [{"settings": written, "says": says}]}
    assert "refused=1" in run_node_test("decoder.test.mjs", golden, tmp_path)
