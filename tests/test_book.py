"""The built pages, read as files: complete, linked, and on their own.

`make test` builds the book before it comes here. What only a browser can see
is in test_browser.py. At the end stands what a new symbol, a new address and a
new copy of the book need: names in their lists, the setup cell, the types.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

import lib
import lib.__main__

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "tools"))
import book_extension  # noqa: E402
import bootstrap_cell  # noqa: E402
import set_repository  # noqa: E402


@pytest.fixture(scope="module")
def site():
    """Every page by its path, parsed."""
    if not (SITE / "index.html").is_file():
        if os.environ.get("NTB_REQUIRE_ALL") == "1":
            pytest.fail("the book is not built: make check-book")
        pytest.skip("NO PAGE TESTS: the book is not built: make check-book")
    if changed := newer_than_the_book():
        pytest.fail(f"the built book is older than {changed}: make check-book")
    pages = [p for p in SITE.rglob("*.html") if "_static" not in p.parts]
    return {
        page.relative_to(SITE).as_posix(): BeautifulSoup(
            page.read_text("utf-8"), "html.parser"
        )
        for page in pages
    }


def newer_than_the_book():
    """A source that was changed after the book was built, or None."""
    built = max(page.stat().st_mtime for page in SITE.glob("**/*.html"))
    pages = [next(ROOT.glob(f"{name}.*")) for name in toc_files()]
    others = ["_config.yml", "_toc.yml", "book/references.bib"]
    others += ["lib/__init__.py", "tools/book_extension.py"]
    for source in [*pages, *(ROOT / name for name in others)]:
        if source.stat().st_mtime > built:
            return source.relative_to(ROOT).as_posix()
    return None


@pytest.fixture(scope="module")
def chapters(site):
    """The pages that are written by hand (not the index and the search)."""
    names = [f"{name}.html" for name in toc_files()]
    return {name: site[name] for name in names}


def toc_files():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    return [toc["root"]] + [
        entry["file"] for part in toc["parts"] for entry in part["chapters"]
    ]


def test_the_table_of_contents_names_every_page_and_chapter():
    sources = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for folder, pattern in [("book", "*.md"), ("notebooks", "*.ipynb")]
        for path in (ROOT / folder).glob(pattern)
    }
    assert set(toc_files()) == sources


def test_every_page_of_the_contents_was_built(site):
    assert {f"{name}.html" for name in toc_files()} <= set(site)


def test_each_page_has_one_title_and_a_language(chapters):
    for name, page in chapters.items():
        assert len(page.find("article").find_all("h1")) == 1, name
        assert page.html["lang"] == "en", name
        assert page.title.text.strip(), name


def test_every_image_has_words(chapters):
    for name, page in chapters.items():
        for image in page.find("article").find_all("img"):
            alt = image.get("alt", "")
            assert len(alt.split()) >= 6, f"{name}: {image.get('src')}: {alt!r}"


def test_no_markup_is_left_as_raw_text(chapters):
    for name, page in chapters.items():
        article = BeautifulSoup(str(page.find("article")), "html.parser")
        for node in article.select("pre, code, dt.sig, .math, script, style"):
            node.decompose()
        text = article.get_text(" ")
        for mark in [":::", "```", "{eval-rst}", "{cite", "$$", "](", "Traceback"]:
            assert mark not in text, f"{name}: {mark}"
        assert not re.search(r"(^|\s)#{2,} \S|\*\*\S[^*\n]*\*\*", text), name
        assert not re.search(r"\{[a-z:]+\}`|:[a-z:]+:`|~[a-z]+\.", text), name


def references(page):
    """What the browser fetches without being asked."""
    wanted = {
        "script": "src",
        "img": "src",
        "iframe": "src",
        "source": "src",
        "video": "src",
        "audio": "src",
        "embed": "src",
        "object": "data",
    }
    for tag, attribute in wanted.items():
        for node in page.find_all(tag):
            if node.get(attribute):
                yield node[attribute]
    for node in page.find_all("link"):
        if {"stylesheet", "icon", "preload", "modulepreload", "preconnect"} & set(
            node.get("rel", [])
        ):
            yield node["href"]


def vendored():
    return (ROOT / "book" / "_static" / "vendor" / ".stamp").is_file()


def test_no_page_fetches_from_another_host(site):
    if not vendored():
        if os.environ.get("NTB_REQUIRE_ALL") == "1":
            pytest.fail("built without vendored JavaScript: python tools/vendor.py")
        pytest.skip("PAGES NEED THE NETWORK: built without npm")
    for name, page in site.items():
        for reference in references(page):
            assert not urlsplit(reference).netloc, f"{name} fetches {reference}"
            if reference.startswith("data:"):
                continue
            target = (SITE / name).parent / unquote(urlsplit(reference).path)
            assert target.exists(), f"{name}: no {reference}"


def test_no_style_or_script_of_ours_fetches_from_another_host():
    for path in (ROOT / "book" / "_static").glob("*"):
        if path.suffix in {".css", ".js", ".mjs"}:
            assert "//" not in re.sub(r"(?m)^\s*//.*$", "", path.read_text("utf-8"))


def test_every_link_inside_the_book_leads_somewhere(site):
    ids = {
        name: {node["id"] for node in page.find_all(id=True)}
        for name, page in site.items()
    }
    for name, page in site.items():
        for node in page.find_all("a", href=True):
            url = urlsplit(node["href"])
            if url.scheme or url.netloc or node["href"] == "#":
                continue
            target = (
                (SITE / name).parent / unquote(url.path) if url.path else SITE / name
            )
            assert target.exists(), f"{name}: {node['href']}"
            page_name = target.resolve().relative_to(SITE.resolve()).as_posix()
            if url.fragment and page_name in ids:
                assert unquote(url.fragment) in ids[page_name], (
                    f"{name}: {node['href']}"
                )


def test_the_reference_holds_every_public_name(site):
    ids = {node["id"] for node in site["book/api.html"].find_all(id=True)}
    modules = {"check"}
    missing = [
        name
        for name in lib.__all__
        if f"lib.{name}" not in ids and name not in modules and name[0] != "_"
    ]
    assert not missing
    assert {f"module-lib.{name}" for name in modules} <= ids


def test_symbols_lead_back_to_their_chapter(site):
    page = site["book/api.html"]
    for symbol, number in chapters_by_docstring().items():
        written = any((ROOT / "notebooks").glob(f"{number:02}_*.ipynb"))
        entry = page.find(id=f"lib.{symbol}").parent
        links = [a["href"] for a in entry.find_all("a", href=True)]
        linked = any(f"notebooks/{number:02}_" in link for link in links)
        assert linked == written, symbol


def test_every_reference_of_the_bibliography_is_listed(site):
    keys = re.findall(
        r"(?m)^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text("utf-8")
    )
    entries = site["book/bibliography.html"].select("div.citation")
    assert len(keys) == len(set(keys)) == len(entries)


def test_the_search_index_knows_every_page(site):
    index = (SITE / "searchindex.js").read_text("utf-8")
    for name in toc_files():
        assert f'"{name}"' in index


def test_notebooks_can_be_downloaded(site):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        copy = SITE / "_sources" / "notebooks" / path.name
        assert copy.read_text("utf-8") == path.read_text("utf-8")


def test_colab_is_offered_only_with_an_address(site):
    repository, _ = bootstrap_cell.address()
    for name, page in site.items():
        links = [a["href"] for a in page.find_all("a", href=True)]
        colab = any("colab.research.google.com" in link for link in links)
        assert colab == bool(repository and name.startswith("notebooks/")), name
        assert not any("github.com/executablebooks/jupyter-book" in x for x in links)


def test_without_vendored_files_the_theme_s_addresses_stay(monkeypatch):
    monkeypatch.setattr(book_extension.vendor, "is_complete", lambda group: False)
    config = SimpleNamespace(mathjax_path="theirs", nb_ipywidgets_js={"theirs": {}})
    book_extension.use_vendored_javascript(None, config)
    assert config.mathjax_path == "theirs"
    assert config.nb_ipywidgets_js == {"theirs": {}}


def test_one_place_holds_the_address():
    repository, tag = bootstrap_cell.address()
    for path, write in set_repository.places().items():
        text = path.read_text("utf-8")
        assert write(text, repository, tag) == text, f"{path.name}: set_repository.py"


def test_setting_the_address_and_taking_it_back_changes_nothing():
    url = "https://github.com/owner/name"
    repository, tag = bootstrap_cell.address()
    for path, write in set_repository.places().items():
        text = path.read_text("utf-8")
        there = write(text, url, "v9.9")
        assert url in there, path.name
        assert write(there, repository, tag) == text, path.name


def test_the_setup_cell_is_short_and_complete():
    source = bootstrap_cell.bootstrap_source("https://github.com/owner/name", "v1")
    assert 'SOURCE = "git+https://github.com/owner/name@v1"' in source
    assert len([line for line in source.splitlines() if line]) <= 12
    assert max(map(len, source.splitlines())) <= 76 + 40  # the address may be long
    source = bootstrap_cell.bootstrap_source("", "v1")
    assert 'SOURCE = ""' in source
    assert max(map(len, source.splitlines())) <= 76


URL = "https://github.com/owner/name"


def run_setup_cell(folder, absent=(), *, repository="", colab=False):
    """Run it where packages are absent; what it would execute is printed."""
    before = f"""
import subprocess, sys
sys.modules.update(dict.fromkeys({absent}))
if {colab}:
    sys.modules["google.colab"] = sys
subprocess.check_call = print
"""
    cell = bootstrap_cell.bootstrap_source(repository, "v1")
    return subprocess.run(
        [sys.executable, "-c", before + cell],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


COPY = '-e ".[notebooks]"   (in the folder of your copy of the book)'
PUBLISHED = f'"next-token-book[notebooks] @ git+{URL}@v1"'


@pytest.mark.parametrize(
    ("absent", "repository", "how"),
    [
        ("lib", "", COPY),
        ("anywidget", "", COPY),
        ("matplotlib", "", COPY),
        ("lib", URL, PUBLISHED),
    ],
    ids=["lib", "anywidget", "matplotlib", "published"],
)
def test_the_setup_cell_says_how_to_install(tmp_path, absent, repository, how):
    done = run_setup_cell(tmp_path, [absent], repository=repository)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    why, advice = line.split(". Run: pip install ")
    assert re.search(rf"\b{absent}\b", why)
    assert advice == how


def test_what_the_setup_cell_looks_for_is_what_its_advice_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "next-token-book"
    extra = " ".join(project["optional-dependencies"]["notebooks"])
    assert {"anywidget", "matplotlib"} <= set(re.findall(r"[a-z]+", extra))


def test_the_setup_cell_is_silent_where_all_is_there(tmp_path):
    done = run_setup_cell(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_on_colab_the_setup_cell_installs_lib_alone(tmp_path):
    done = run_setup_cell(tmp_path, ["lib"], repository=URL, colab=True)
    told = ["pip", "install", "-q", "--no-deps", f"git+{URL}@v1"]
    assert (done.returncode, done.stdout.strip()) == (0, str(told))


# --- a new symbol is in every list ----------------------------------------------------

FAMILIES = ["distribution", "truncation", "repetition", "selection"]


def symbols_of(module):
    """The public functions and classes that a module defines."""
    return {
        name: symbol
        for name, symbol in vars(module).items()
        if name[0] != "_" and getattr(symbol, "__module__", "") == module.__name__
    }


def chapters_by_docstring():
    """Each symbol of `lib` that says where it is derived, with the chapter's number."""
    found = {}
    for module in pkgutil.iter_modules(lib.__path__, "lib."):
        if module.ispkg or module.name == "lib.__main__":
            continue
        for name, symbol in symbols_of(importlib.import_module(module.name)).items():
            said = re.search(r"Defined\s+in\s+chapter\s+(\d+)", symbol.__doc__ or "")
            if said:
                found[name] = int(said[1])
    return found


def test_every_rule_is_public_and_names_its_chapter():
    said = chapters_by_docstring()
    for family in FAMILIES:
        module = importlib.import_module(f"lib.{family}")
        for name, symbol in symbols_of(module).items():
            if name.startswith("apply_") and inspect.isfunction(symbol):
                assert name in lib.__all__, f"__all__ in lib/__init__.py: {name}"
                assert name in said, f"{name} does not say: Defined in chapter …"


def test_every_symbol_that_names_its_chapter_is_public():
    forgotten = sorted(set(chapters_by_docstring()) - set(lib.__all__))
    assert not forgotten, f"__all__ in lib/__init__.py: {forgotten}"


def test_every_setting_is_in_every_list():
    names = {field.name for field in fields(lib.SamplingSettings)} - {"eos_token_id"}
    assert names <= set(inspect.signature(lib.generate).parameters), "lib/generator.py"
    command = lib.__main__.parser()
    read = lib.__main__.read_settings(command, command.parse_args(["Once"]))
    assert names <= set(read), "read_settings in lib/__main__.py"
    assert names <= {*lib.__main__.FLAGS, "do_sample"}, "FLAGS in lib/__main__.py"
    twin = (ROOT / "lib" / "widgets" / "decoder.js").read_text("utf-8")
    (defaults,) = re.findall(
        r"(?s)function checkSettings.*?\{(.*?)\.\.\.settings", twin
    )
    assert names <= set(re.findall(r"(\w+):", defaults)), "lib/widgets/decoder.js"
    knobs = (ROOT / "book" / "_static" / "playground" / "knobs.js").read_text("utf-8")
    assert names <= set(re.findall(r'name: "(\w+)"', knobs)), (
        "book/_static/playground/knobs.js"
    )


# --- an installed copy ----------------------------------------------------------------


def test_an_installed_lib_is_typed_for_programs_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=skip", "-c", "import lib"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"installed before this: make install\n{done.stdout}"
