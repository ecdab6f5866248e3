"""The playground in a real browser: it writes what the library writes.

What is expected is computed here by `lib`, at each run. The numbers that a page cannot
know by itself, those of `facts.js`, are held as well. Screenshots stay in
`_build/screenshots` to be looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
import torch
from javascript import run_node_test
from served import drive

import lib

WEIGHTS = Path(lib.__file__).parent / "weights" / "tiny"
FILES = ("config.json", "model.safetensors", "tokenizer.json")

STORY = {
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.9,
    "seed": 1,
    "max_new_tokens": 80,
}

OPENINGS = [
    "One day, a boy named Tom went to the park with his dog.",
    "The old man lived alone in a small house by the sea.",
    '"Mom, can I have a cookie?" asked Tim.',
    "It was raining,\nand the children could not",
    "naïve café 🐉",
    "   three   spaces   ",
]

SAMPLED = [
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.5},
    {"temperature": 1.7, "top_k": 40, "top_p": 1.0},
    {"top_p": 0.5, "no_repeat_ngram_size": 3},
    {"temperature": 1.2, "top_k": 20, "top_p": 0.8, "min_new_tokens": 60},
    {"seed": 2**53 - 1},
]


def greedy(**changed):
    return {"do_sample": False, "max_new_tokens": 60, **changed}


# Prompt and settings, of which each text is wanted.
BANK = [
    *((prompt, greedy()) for prompt in OPENINGS[:4]),
    ("Once upon a time", greedy(no_repeat_ngram_size=4, max_new_tokens=160)),
    *(
        (prompt, STORY | {"max_new_tokens": 60, "seed": 10 * i} | settings)
        for i, prompt in enumerate(OPENINGS)
        for settings in (SAMPLED[i], SAMPLED[(i + 2) % len(SAMPLED)])
    ),
    # The model ends this one itself.
    ("They all lived happily ever after. The end.", STORY | {"max_new_tokens": 300}),
]
BRANCH = {"index": 13, "settings": STORY}  # at a step with several candidates
COMPARED = [STORY | {"seed": 4, "temperature": t} for t in (0.8, 0.9)]
LONG = STORY | {"max_new_tokens": 400, "seed": 5}


def link(prompt, *columns):
    fields = {"prompt": prompt, **columns[0]}
    for other in columns[1:]:
        fields |= {f"b.{name}": value for name, value in other.items()}
        fields.pop("b.seed", None)
    written = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in fields.items()
    }
    return "#" + urlencode(written)


@pytest.fixture(scope="module")
def tiny():
    return lib.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def other_choice(tiny):
    """The likeliest token at the step of the branch that was not chosen there."""
    model, tokenizer = tiny
    ids = ids_of(tokenizer, "Once upon a time")
    course = new_tokens(tiny, "Once upon a time", STORY)
    before = torch.tensor([ids + course[: BRANCH["index"]]])
    with torch.inference_mode():
        best = model(before).logits[0, -1].topk(2).indices.tolist()
    return next(token for token in best if token != course[BRANCH["index"]])


@pytest.fixture(scope="module")
def visit(other_choice):
    return drive(
        "playground.mjs",
        bank=[link(prompt, settings) for prompt, settings in BANK],
        branch={
            "link": link("Once upon a time", STORY),
            "index": BRANCH["index"],
            "token": other_choice,
        },
        compare={"link": link("Once upon a time", *COMPARED)},
        stop={"link": link("Once upon a time", LONG)},
    )


def ids_of(tokenizer, prompt):
    return tokenizer(prompt)["input_ids"]


def new_tokens(tiny, prompt, settings):
    model, tokenizer = tiny
    ids = ids_of(tokenizer, prompt)
    return lib.generate(model, torch.tensor([ids]), **settings)[0, len(ids) :].tolist()


def text_of(tiny, prompt, settings):
    return lib.complete(*tiny, prompt, **settings)


def continued(tiny, ids, first, settings):
    """The text after ``ids``, whose next token is number ``first``, step by step."""
    model, tokenizer = tiny
    names = ("do_sample", "temperature", "top_p")
    pipeline = lib.build_pipeline(
        lib.SamplingSettings(**{name: settings[name] for name in names})
    )
    ids = list(ids)
    for step in range(first, settings["max_new_tokens"]):
        row = torch.tensor([ids])
        with torch.inference_mode():
            logits = model(row).logits[:, -1]
        u = lib.uniforms(settings["seed"], [0], [step])[:, 0]
        ids.append(int(pipeline(row, logits, u)))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids, skip_special_tokens=True)


def at_a_tie(tiny, prompt, settings, text):
    """Whether a text parts from the library's where rounding may decide.

    Up to its first other token it is the library's; there the draw lies within 1e-5 of
    the border of the library's token, or, without sampling, its logit within 1e-4 of
    the next.
    """
    model, tokenizer = tiny
    ids, got = ids_of(tokenizer, prompt), ids_of(tokenizer, text)
    tokens = new_tokens(tiny, prompt, settings)
    step = next(
        (i for i, t in enumerate(tokens) if got[len(ids) + i : len(ids) + i + 1] != [t])
    )
    before = torch.tensor([ids + tokens[:step]])
    pipeline_settings = {
        name: value
        for name, value in settings.items()
        if name not in ("seed", "max_new_tokens")
    }
    pipeline = lib.build_pipeline(
        lib.SamplingSettings(**pipeline_settings, eos_token_id=[0])
    )
    with torch.inference_mode():
        logits = model(before).logits[:, -1]
    final = pipeline.process(lib.pipeline.Step(before, None, step), logits)[0]
    if not settings["do_sample"]:
        first, second = final.topk(2).values.tolist()
        return first - second < 1e-4
    border = final.double().softmax(-1).cumsum(-1)
    u = float(lib.uniforms(settings["seed"], [0], [step]))
    token = tokens[step]
    low = float(border[token - 1]) if token else 0.0
    return min(u - low, float(border[token]) - u) < 1e-5


def test_what_the_page_knows_without_asking(tmp_path, tiny):
    _, tokenizer = tiny
    config = json.loads((WEIGHTS / "config.json").read_text("utf-8"))
    content = b"".join((WEIGHTS / name).read_bytes() for name in FILES)
    facts = {
        "FILES": {name: (WEIGHTS / name).stat().st_size for name in FILES},
        "VERSION": hashlib.sha256(content).hexdigest()[:12],
        "CONTEXT": config["n_positions"],
        "VOCABULARY": config["vocab_size"],
        "EOS": [tokenizer.eos_token_id],
    }
    run_node_test("playground.test.mjs", {"facts": facts}, tmp_path)


def test_the_first_visit_fetches_the_model_once_and_when_asked(visit, tiny):
    first = visit["first"]
    assert first["unasked"] == 0
    assert first["fetched"] == 1
    assert first["text"] == text_of(tiny, "Once upon a time", STORY)
    assert first["status"].startswith("max_new_tokens reached: 80 new tokens")
    print(f"transfer: {first['transfer']} bytes; {first['status']}")
    assert first["transfer"] <= 11_000_000


def test_texts_are_those_of_the_library(visit, tiny):
    found = visit["bank"]["found"]
    assert len(found) == len(BANK)
    assert visit["bank"]["alert"] == ""
    ties = 0
    for (prompt, settings), text in zip(BANK, found, strict=True):
        if text != text_of(tiny, prompt, settings):
            assert at_a_tie(tiny, prompt, settings, text), (prompt, settings, text)
            ties += 1
    tokens = sum(len(new_tokens(tiny, *item)) for item in BANK)
    print(f"{len(found)} texts, {tokens} tokens, {ties} parted at a float tie")
    assert ties <= 1


def test_a_second_text_needs_no_network(visit):
    assert visit["bank"]["fetched"] == 1
    assert visit["keyboard"]["fetched"] == 0


def test_a_branch_goes_its_own_way_under_the_same_luck(visit, tiny, other_choice):
    branch, (_, tokenizer) = visit["branch"], tiny
    ids = ids_of(tokenizer, "Once upon a time")
    kept = ids + new_tokens(tiny, "Once upon a time", STORY)[: BRANCH["index"]]
    wanted = continued(tiny, [*kept, other_choice], BRANCH["index"] + 1, STORY)
    assert branch["original"] == text_of(tiny, "Once upon a time", STORY)
    assert branch["branched"] == wanted != branch["original"]
    assert branch["focus"] == tokenizer.decode([other_choice])
    assert [way.split(":")[0] for way in branch["ways"]] == [
        "Original",
        f"With token {BRANCH['index'] + 1}",
    ]
    assert branch["back"] == branch["original"]


def test_a_shared_link_gives_the_same_text(visit):
    assert visit["shared"]["text"] == visit["branch"]["branched"]
    assert visit["shared"]["forced"] == 1


def test_the_panel_says_what_the_trace_says(visit, tiny):
    model, tokenizer = tiny
    ids = torch.tensor([ids_of(tokenizer, "Once upon a time")])
    record = lib.trace(model, ids, **STORY).steps[BRANCH["index"]]
    head, *rows = visit["branch"]["cells"]
    assert head[0] == "the model"
    assert float(head[3]) == pytest.approx(record.stages[0].entropy_before, abs=0.006)
    assert [row[0] for row in rows] == ["temperature = 0.8", "top_p = 0.9"]
    for row, stage in zip(rows, record.stages, strict=True):
        assert int(row[1].replace(",", "")) == stage.removed
        assert float(row[2]) == pytest.approx(stage.mass, abs=6e-4)
        before, after = map(float, row[3].split(" → "))
        assert before == pytest.approx(stage.entropy_before, abs=0.006)
        assert after == pytest.approx(stage.entropy_after, abs=0.006)
    numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", visit["branch"]["story"])]
    rank, _, raw, final, u, low, high = numbers
    assert rank == record.rank
    assert raw == pytest.approx(record.raw_probability, abs=6e-4)
    assert final == pytest.approx(record.probability, abs=6e-4)
    assert u == pytest.approx(record.u, abs=6e-5)
    assert low <= record.u + 1e-4
    assert record.u < high + 1e-4
    assert high - low == pytest.approx(record.probability, abs=2e-4)


def test_two_settings_are_compared_under_the_same_luck(visit, tiny):
    texts = [text_of(tiny, "Once upon a time", s) for s in COMPARED]
    a, b = (new_tokens(tiny, "Once upon a time", s) for s in COMPARED)
    pairs = list(zip(a, b, strict=False))
    first = next(i for i, (x, y) in enumerate(pairs) if x != y)
    same = sum(x == y for x, y in pairs)
    assert first > 0
    got = visit["compare"]
    assert got["both"] == texts
    assert (
        f"The first {first} tokens are the same. Token {first + 1} is"
        in (got["verdict"])
    )
    assert f"{same} of {len(pairs)} places hold the same token" in got["verdict"]
    assert got["marked"] == [[len(a) - first, first], [len(b) - first, first]]


def test_stopping_loses_nothing(visit, tiny):
    whole = text_of(tiny, "Once upon a time", LONG)
    stop = visit["stop"]
    assert len("Once upon a time") < len(stop["stopped"]) < len(whole)
    assert whole.startswith(stop["stopped"])
    assert re.match(r"Stopped: \d+ new tokens", stop["status"])
    assert stop["whole"] == whole


def test_a_button_pressed_too_early_breaks_nothing(visit):
    hasty = visit["hasty"]
    assert not hasty["errors"]
    assert hasty["alert"] == ""
    assert len(hasty["whole"]) > 40
    assert hasty["spoken"].startswith("Text A: ")


def test_another_way_closes_the_panel_and_keeps_the_focus(visit):
    hasty = visit["hasty"]
    assert hasty["open"] == 1
    assert hasty["after"]["open"] == 0
    assert hasty["after"]["focus"] == "Original"
    assert hasty["after"]["whole"] == hasty["whole"]


def test_a_library_that_fails_is_asked_of_nobody_else(visit):
    assert visit["astray"] == []


def test_without_a_pointer(visit, tiny):
    _, tokenizer = tiny
    settings = STORY | {"max_new_tokens": 60}
    keyboard = visit["keyboard"]
    assert keyboard["text"] == text_of(tiny, "The cat sat", settings)
    fourth = tokenizer.decode(new_tokens(tiny, "The cat sat", settings)[3])
    assert keyboard["token"] == fourth
    assert keyboard["title"].startswith("Token 4: ")
    assert keyboard["branched"] != keyboard["text"]
    assert "new tokens" in keyboard["status"]
    assert keyboard["back"] == "option"
    assert keyboard["panel"].startswith("Choose a token")


def test_bad_values_are_refused_with_their_range(visit):
    says = {
        "#pg-a-temperature=hot": "temperature=hot must be a number > 0",
        "#pg-a-top_p=1.5": "top_p=1.5 must be a number > 0 and <= 1",
        "#pg-a-max_new_tokens=509": "max_new_tokens=509 must be an integer from 1 to ",
        "#pg-a-min_new_tokens=6": "min_new_tokens=6 must be an integer from 0 to 5",
        "#pg-seed=-1": "seed=-1 must be an integer from 0 to 9007199254740991",
        "#pg-prompt=": "the prompt has no tokens",
    }
    said = visit["refusals"]["said"]
    assert set(said) == set(says)
    for field, words in says.items():
        assert said[field]["message"].startswith(words)
        assert said[field]["focus"], field


def test_a_changed_form_and_a_faulty_link_are_told(visit, tiny):
    refusals = visit["refusals"]
    assert refusals["changed"] == "Written with other settings than those above."
    assert "temperature=hot must be a number > 0" in refusals["link"]
    assert "colour is no setting" in refusals["link"]
    settings = STORY | {"max_new_tokens": 5}
    assert refusals["text"] == text_of(tiny, "Once upon a time", settings)


def test_what_fails_can_be_tried_again(visit, tiny):
    trouble = visit["trouble"]
    assert "model.safetensors: the server answered 503" in trouble["failure"]
    assert trouble["text"] == text_of(tiny, "A frog", STORY)
    assert trouble["alert"] == ""


def test_without_javascript_the_page_says_so(visit):
    assert "needs JavaScript" in visit["plain"]


def test_no_error_and_no_other_host(visit):
    assert visit["report"] == {"errors": [], "outside": []}


def test_every_view_can_be_used(visit):
    views = visit["views"]
    assert len(views) == 4 * 4
    assert not {name: view["axe"] for name, view in views.items() if view["axe"]}
    assert not {name: view["wider"] for name, view in views.items() if view["wider"]}
    assert not {name: view["low"] for name, view in views.items() if view["low"]}
