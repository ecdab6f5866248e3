"""The live figures as Python objects: what they carry, and what they refuse.

What they draw is checked in a browser, on the built book.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from javascript import ROOT, require_node

import lib

pytest.importorskip("anywidget")

from lib import widgets
from lib.widgets._base import FOLDER, bundle

WORDS = ["bed", "cat", "floor", "mat", "on", "roof", "sat", "sofa", "the"]
TWO = torch.arange(18.0).reshape(2, 9).sin() * 3  # two steps, nine words
NAMES = ["peaked", "flat"]

FIGURES = {
    "NGramBan": lambda: widgets.NGramBan(TWO, WORDS, torch.tensor([8, 1])),
    "CommonLuck": lambda: widgets.CommonLuck(TWO, WORDS, NAMES),
    "Waterfall": lambda: widgets.Waterfall(
        TWO, WORDS, NAMES, histories=[torch.tensor([8, 1])] * 2
    ),
    "Roofline": lambda: widgets.Roofline(),
    "Softmax": lambda: widgets.Softmax(TWO[0], WORDS),
    "Temperature": lambda: widgets.Temperature(TWO, WORDS, NAMES),
    "TopK": lambda: widgets.TopK(TWO, WORDS, NAMES, top_k=3),
    "TopP": lambda: widgets.TopP(TWO, WORDS, NAMES),
}
figures = pytest.mark.parametrize("name", FIGURES)


def test_every_figure_is_tested_here():
    assert set(FIGURES) == set(widgets.__all__)


@figures
def test_its_script_is_one_module(name, tmp_path):
    script = FIGURES[name]()._esm
    assert not re.search(r"(?m)^import\b|^export (?!default\b)", script)
    assert script.count("export default") == 1
    require_node()
    path = tmp_path / "figure.mjs"
    path.write_text(script, "utf-8")
    node = subprocess.run(["node", "--check", path], capture_output=True, text=True)
    assert node.returncode == 0, node.stderr


@figures
def test_repr_is_the_same_each_time(name):
    make = FIGURES[name]
    assert repr(make()) == repr(make())
    assert repr(make()).startswith(f"<{name}: ")
    assert "0x" not in repr(make())


@figures
def test_a_figure_carries_its_data_and_styles(name):
    figure = FIGURES[name]()
    state = figure.get_state()
    assert state["_esm"] == figure._esm
    assert state["_css"] == (FOLDER / "figure.css").read_text("utf-8")
    json.dumps({key: value for key, value in state.items() if key != "logits"})


@pytest.mark.parametrize("name", ["Temperature", "TopK", "TopP"])
def test_logits_arrive_as_float32_row_by_row(name):
    figure = FIGURES[name]()
    back = np.frombuffer(figure.logits, dtype="<f4").reshape(-1, figure.vocab)
    assert torch.equal(torch.from_numpy(back.copy()), TWO)
    assert figure.names == NAMES


def test_other_dtypes_views_and_gradients_are_taken():
    wide = TWO.double().t().contiguous().t().requires_grad_()
    figure = widgets.Temperature(wide, WORDS)
    assert figure.logits == widgets.Temperature(TWO, WORDS).logits
    assert figure.names == ["step 0", "step 1"]
    half = widgets.Temperature(TWO.half(), WORDS)
    assert np.allclose(np.frombuffer(half.logits, "<f4"), TWO.flatten(), atol=1e-2)


def test_a_removed_token_arrives_as_minus_infinity():
    logits = TWO.clone()
    logits[0, 4] = -torch.inf
    back = np.frombuffer(widgets.TopK(logits, WORDS, top_k=2).logits, dtype="<f4")
    assert back[4] == -np.inf


def test_every_token_keeps_its_own_text():
    # NUL, quotes, line breaks and bytes that are no text are tokens of the model.
    _, tokenizer = lib.load()
    V = len(tokenizer)
    figure = widgets.Temperature(torch.zeros(1, V), tokenizer)
    texts = json.loads(figure.words)
    assert texts == [tokenizer.decode([token]) for token in range(V)]
    assert "\0" in texts
    assert '"' in texts


def test_the_page_reads_the_words_as_they_were(tmp_path):
    require_node()
    texts = ["\0", '"', "\\", "\n", " a", "␣", "貓", "\u2028"]
    figure = widgets.Temperature(torch.zeros(1, len(texts)), texts)
    module = (FOLDER / "figure.js").as_uri()
    script = f"""
        import {{ wordsOf, visible }} from "{module}";
        const model = {{ get: () => {json.dumps(figure.words)} }};
        const words = wordsOf(model);
        console.log(JSON.stringify([words, words.map(visible)]));
    """
    path = tmp_path / "words.mjs"
    path.write_text(script, "utf-8")
    node = subprocess.run(["node", path], capture_output=True, text=True)
    assert node.returncode == 0, node.stderr
    words, seen = json.loads(node.stdout)
    assert words == texts
    assert seen == ["␀", '"', "\\", "↵", "␣a", "␣", "貓", "\u2028"]


def test_the_pair_of_softmax():
    z = torch.tensor([1.0, 3.0, 2.0])
    words = ["a", "b", "c"]
    assert widgets.Softmax(z, words).pair == [1, 2]  # the best two
    assert widgets.Softmax(z, words, pair=["c", "a"]).pair == [2, 0]


WRONG = [
    (lambda: widgets.Temperature(TWO, WORDS[:3]), "words has 3 texts", ValueError),
    (lambda: widgets.Temperature(TWO, [1] * 9), "words", TypeError),
    (lambda: widgets.Temperature(TWO, WORDS, ["one"]), "must be 2 texts", ValueError),
    (lambda: widgets.Temperature(TWO[:0], WORDS), "at least 1", ValueError),
    (lambda: widgets.Temperature(TWO * torch.nan, WORDS), "NaN", ValueError),
    (lambda: widgets.Temperature(TWO.int(), WORDS), "floating", TypeError),
    (
        lambda: widgets.Temperature(TWO, WORDS, temperature=0.01),
        "temperature=0.01 must be a number >= 0.05 and <= 10",
        ValueError,
    ),
    (
        lambda: widgets.TopK(TWO, WORDS, top_k=0),
        "top_k=0 must be an integer from 1 to 9",
        ValueError,
    ),
    (lambda: widgets.TopK(TWO, WORDS, top_k=2.5), "top_k=2.5", TypeError),
    (
        lambda: widgets.TopK(TWO[0], WORDS, top_k=1),
        "logits has 1 rows; TopK shows 2",
        ValueError,
    ),
    (
        lambda: widgets.TopP(TWO, WORDS, top_p=1.5),
        "top_p=1.5 must be a number > 0 and <= 1",
        ValueError,
    ),
    (
        lambda: widgets.TopP(TWO, WORDS, temperature=11),
        "temperature=11 must be a number >= 0.05 and <= 10",
        ValueError,
    ),
    (
        lambda: widgets.Softmax(torch.zeros(13), list("abcdefghijklm")),
        "logits has 13 columns; Softmax shows 2 to 12 words",
        ValueError,
    ),
    (
        lambda: widgets.Softmax(torch.tensor([0.0, -torch.inf]), ["a", "b"]),
        "must lie from -20 to 20",
        ValueError,
    ),
    (lambda: widgets.Softmax(TWO, WORDS), "logits has 2 rows", ValueError),
    (
        lambda: widgets.Softmax(TWO[0], WORDS, pair=["mat", "dog"]),
        "must be two different texts",
        ValueError,
    ),
]


@pytest.mark.parametrize(("make", "message", "kind"), WRONG)
def test_what_cannot_be_shown_is_refused(make, message, kind):
    with pytest.raises(kind, match=re.escape(message)):
        make()


def test_a_bundle_holds_each_module_once():
    script = bundle("top_p.js")
    for function in ["softmax", "frame", "ranking"]:
        assert script.count(f"function {function}(") == 1


def test_the_library_does_not_need_the_widget_libraries():
    script = (
        "import sys, lib, lib.plots, lib.check\n"
        "assert not {'anywidget', 'ipywidgets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def stored_figures():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        metadata = json.loads(path.read_text("utf-8"))["metadata"]
        widget_state = "application/vnd.jupyter.widget-state+json"
        models = metadata.get("widgets", {}).get(widget_state, {}).get("state", {})
        for model in models.values():
            identity = model["state"].get("_anywidget_id", "")
            if identity.startswith("lib.widgets."):
                yield path.name, identity.rpartition(".")[2], model["state"]


def test_the_book_holds_the_figures_as_they_are_now():
    # nbval looks at no widget: a notebook would keep the script of its last run.
    stored = list(stored_figures())
    assert {name for _, name, _ in stored} == set(widgets.__all__)
    for notebook, name, state in stored:
        figure = getattr(widgets, name)
        same = state["_esm"] == figure._esm and state["_css"] == figure._css
        assert same, f"{notebook} holds an older {name}: `make notebooks`"
