"""The page "Troubleshooting": its code gives and raises what stands beside the arrows.

Blocks of one section share their names; each section begins with those of the first.
"""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "book" / "troubleshooting.md"
BLOCK = re.compile(r"(?ms)^```python\n(.*?)^```$")
ARROW = re.compile(r"(?s)\n# → (.*)\Z")
INTRODUCTION, *PARTS = re.split(r"(?m)^## ", PAGE.read_text("utf-8"))
SECTIONS = {part.split("\n", 1)[0]: BLOCK.findall(part) for part in PARTS}


def run(block, names):
    """What a block says that its last line gives or raises, and what it does.

    Each block ends in an arrow, and has no other.
    """
    code, wanted, end = ARROW.split(block.rstrip())
    assert not end
    assert "→" not in code
    *before, last = ast.parse(code).body
    exec(compile(ast.Module(before, []), "page", "exec"), names)
    expression = ast.unparse(last)
    wanted = wanted.replace("\n#   ", " ")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return wanted, repr(eval(expression, names))
    except (RuntimeError, ValueError) as error:
        return wanted, f"{type(error).__name__}: {error}"


@pytest.fixture
def names():
    (setup,) = BLOCK.findall(INTRODUCTION)
    out = {}
    exec(setup, out)
    return out


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.filterwarnings("ignore")
def test_the_code_does_what_the_page_says(section, names):
    for block in SECTIONS[section]:
        wanted, found = run(block, names)
        if re.match(r"\w+Error: ", wanted):
            assert found.startswith(wanted), block
        else:
            assert found == wanted, block


def test_every_section_has_a_cause_a_fix_and_code():
    assert len(SECTIONS) >= 13
    for part in PARTS:
        assert part.index("**Cause.**") < part.index("**Fix.**")
        assert BLOCK.search(part), part


def test_an_arrow_that_points_wrong_is_seen():
    assert run("x = 1\nx + 1\n# → 3\n", {}) == ("3", "2")
    wanted, found = run("int('x')\n# → KeyError: x\n", {})
    assert not found.startswith(wanted)
    assert found.startswith("ValueError: invalid literal")
