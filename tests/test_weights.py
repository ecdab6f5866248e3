"""The models in the box, as they are shipped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import lib
from lib import models

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import ship_model  # noqa: E402

NAMES = models.EMBEDDED


def test_one_tokenizer_and_at_most_ten_megabytes():
    files = [
        (ship_model.WEIGHTS / name / "tokenizer.json").read_bytes() for name in NAMES
    ]
    assert len(set(files)) == 1
    assert ship_model.size_of_all() <= ship_model.BUDGET


@pytest.mark.parametrize("name", NAMES)
def test_folder_holds_what_is_needed_and_a_card_of_it(name):
    folder = ship_model.WEIGHTS / name
    names = {file.name for file in folder.iterdir()}
    assert names == {*ship_model.NEEDED, "training.json", ship_model.CARD}
    facts = json.loads((folder / "training.json").read_text())
    final = facts["final"]
    card = " ".join((folder / ship_model.CARD).read_text(encoding="utf-8").split())
    assert f"{final['bits_per_byte']:.4f} bits a byte" in card
    assert facts["corpus_sha256"] in card
    model, tokenizer = lib.load(name, device="cpu")
    assert model.num_parameters() == facts["parameters"]
    assert tokenizer.eos_token_id == 0
    last = facts["history"][-1]["bits_per_byte"]  # before the weights became fp16
    assert final["bits_per_byte"] == pytest.approx(last, abs=1e-3)
