"""What the book asks of Sphinx beyond its configuration file.

- JavaScript comes from `book/_static/vendor` where `tools/vendor.py` has put
  it; otherwise the theme's default addresses stay, and the build says so.
- The library's JavaScript and its small model are put where the pages find them.
- The repository's address, once known, turns on the Colab and source buttons.
- Where the API reference says in which chapter a symbol is defined, it is a link.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))
import vendor
from bootstrap_cell import address

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]


def chapter(number: int) -> str | None:
    """The document of a chapter, if it is written."""
    found = sorted((ROOT / "notebooks").glob(f"{number:02}_*.ipynb"))
    return f"notebooks/{found[0].stem}" if found else None


def use_vendored_javascript(app: Sphinx, config: Config) -> None:
    if not vendor.is_complete("site"):
        log.info(
            "book: no vendored JavaScript (run `python tools/vendor.py`): pages "
            "will load MathJax and widget libraries from the internet"
        )
        return
    config.mathjax_path = "vendor/mathjax/tex-mml-chtml.js"
    config.nb_ipywidgets_js = {"live-figures.js": {"defer": "defer"}}


def leave_out_second_icons(app: Sphinx, error: Exception | None) -> None:
    """The theme brings its icons twice, as a font and as half a megabyte of script."""
    script = Path(app.outdir) / "_static" / "scripts" / "fontawesome.js"
    if not error and script.is_file():
        script.write_text("// The icons come from the theme's font.\n", "utf-8")


def shrink_pictures(app: Sphinx, error: Exception | None) -> None:
    """Leave out the transparency that no figure uses, a tenth of its bytes."""
    for path in (Path(app.outdir) / "_images").glob("*.png"):
        with Image.open(path) as picture:
            opaque = picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255)
            smaller = picture.convert("RGB") if opaque and not error else None
        if smaller:
            smaller.save(path, optimize=True)


def copy_live_code(app: Sphinx, error: Exception | None) -> None:
    """Put the library's JavaScript and model beside the pages that run them."""
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    widgets, model = ROOT / "lib" / "widgets", ROOT / "lib" / "weights" / "tiny"
    for folder, files in {
        static / "lib": [*widgets.glob("*.js"), *widgets.glob("*.css")],
        static / "tiny": [
            model / name
            for name in ("config.json", "model.safetensors", "tokenizer.json")
        ],
    }.items():
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, folder)


def use_repository(app: Sphinx, config: Config) -> None:
    options: dict[str, Any] = config.html_theme_options
    options["navbar_persistent"] = []  # one search field, in the sidebar
    repository, tag = address()
    if not repository:
        options["repository_url"] = ""  # jupyter-book's default is its own
        return
    options["repository_url"] = repository
    options["repository_branch"] = tag
    options["use_repository_button"] = True
    options["use_issues_button"] = True
    options["launch_buttons"] = {
        "notebook_interface": "classic",
        "colab_url": "https://colab.research.google.com",
    }


def link_chapter(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make "Defined in chapter 3" in a docstring a link to that chapter."""

    def link(said: re.Match[str]) -> str:
        page = chapter(int(said[1]))
        return f":doc:`{said[0]} </{page}>`" if page else said[0]

    lines[:] = [re.sub(r"Defined in chapter (\d+)", link, line) for line in lines]


def plain_property(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep napoleon from taking what precedes a colon for a property's type."""
    if what == "property" and lines and ": " in lines[0]:
        before, after = lines[0].split(": ", 1)
        lines[0:1] = [f"{before}:", after]


def readable_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write defaults such as `<factory>` as `...`, which Sphinx can parse."""
    if signature:
        signature = re.sub(r"= ?<[^<>]*(<[^<>]*>)?[^<>]*>", "=...", signature)
    return signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", use_vendored_javascript, priority=100)
    app.connect("config-inited", use_repository, priority=100)
    app.connect("build-finished", copy_live_code)
    app.connect("build-finished", shrink_pictures)
    app.connect("build-finished", leave_out_second_icons)
    app.connect("autodoc-process-docstring", plain_property, priority=100)
    app.connect("autodoc-process-docstring", link_chapter)
    app.connect("autodoc-process-signature", readable_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
