"""The built pages, read as files: complete, linked, and on their own.

`make test` builds the book before it comes here. What only a browser can see
is in test_browser.py.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

import lib

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
    pages = [p for p in SITE.rglob("*.html") if "_static" not in p.parts]
    return {
        page.relative_to(SITE).as_posix(): BeautifulSoup(
            page.read_text("utf-8"), "html.parser"
        )
        for page in pages
    }


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
    for chapter, symbols in book_extension.CHAPTERS.items():
        written = (ROOT / "notebooks" / f"{chapter}.ipynb").is_file()
        for symbol in symbols:
            assert symbol in lib.__all__
            entry = page.find(id=f"lib.{symbol}").parent
            links = [a["href"] for a in entry.find_all("a", href=True)]
            assert any(chapter in link for link in links) == written, symbol


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
    assert 'SOURCE = ""' in bootstrap_cell.bootstrap_source("", "v1")
