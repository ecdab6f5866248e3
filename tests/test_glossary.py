"""The glossary: in order, and each term in the chapter that it is said to be in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "glossary.md").read_text("utf-8")
ENTRY = re.compile(
    r"(?m)^(\w.*)\n  (\S.*) \[Chapter (\d)\]\(\.\./notebooks/(0\3_\w+\.ipynb)\)\.$"
)
ENTRIES = {term: (text, name) for term, text, _, name in ENTRY.findall(PAGE)}
# What the chapter calls by another form of the name.
FORMS = {
    "BPE": "byte-pair",
    "causal": "*causal*",
    "inverse transform": "inverse",
    "KL divergence": r"\operatorname{KL}",
    "left padding": "**left**",
    "log-sum-exp": "lse",
    "support": "empties the support",
    "tied weights": "**tied**",
    "uniform draw": "uniform",
}


def test_every_entry_has_its_sentence_and_its_chapter():
    (body,) = re.findall(r"(?s)```\{glossary\}\n(.*)\n```", PAGE)
    assert len(body.split("\n\n")) == len(ENTRIES) > 50


def test_the_terms_stand_in_order():
    terms = list(ENTRIES)
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize("term", ENTRIES)
def test_the_chapter_speaks_of_the_term(term):
    _, name = ENTRIES[term]
    cells = json.loads((ROOT / "notebooks" / name).read_text("utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    words = " ".join(text.lower().replace("-", " ").split())
    assert FORMS.get(term, term).lower().replace("-", " ") in words
