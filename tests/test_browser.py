"""The built book in a real browser, every other host blocked.

Each page is opened on a desktop and on a phone, in light and in dark. The
screenshots stay in `_build/screenshots` to be looked at.
"""

from __future__ import annotations

import pytest
from served import SITE, drive

# What the tools beneath the book do and the book cannot mend: rule and page.
# docutils marks each entry of a bibliography as doc-biblioentry, a role that
# has since been deprecated.
BASELINE = {
    ("aria-deprecated-role", "book/bibliography.html"),
    ("aria-required-children", "book/bibliography.html"),
}


def pages() -> list[str]:
    # index.html only leads on to the preface.
    generated = {"index.html", "genindex.html", "py-modindex.html"}
    return sorted(
        path.relative_to(SITE).as_posix()
        for path in SITE.rglob("*.html")
        if "_static" not in path.parts and path.name not in generated
    )


@pytest.fixture(scope="module")
def visits():
    return drive("visit.mjs", pages=pages())


def views(visits):
    return {name: report for name, report in visits.items() if "page" in report}


def complaints(visits, key):
    return {
        name: report["page"][key]
        for name, report in views(visits).items()
        if report["page"][key]
    }


def test_every_page_opens_without_an_error(visits):
    assert not {name: r["errors"] for name, r in visits.items() if r["errors"]}


def test_no_page_asks_another_host(visits):
    assert not {name: r["outside"] for name, r in visits.items() if r["outside"]}


def test_all_mathematics_is_set(visits):
    assert not complaints(visits, "badMath")
    for name, report in views(visits).items():
        assert report["page"]["set"] >= report["page"]["math"], name
    assert sum(report["page"]["set"] for report in views(visits).values())


def test_no_image_is_broken(visits):
    assert not complaints(visits, "brokenImages")


def test_no_page_is_wider_than_its_screen(visits):
    wide = {n: w for n, w in complaints(visits, "wider").items() if w > 1}
    assert not wide


def test_every_equation_and_its_number_fit_the_screen(visits):
    assert not complaints(visits, "cutOff")


def test_dark_mode_follows_the_reader(visits):
    for name, report in views(visits).items():
        assert report["page"]["theme"] == name.split()[-1], name


def test_accessibility(visits):
    found = {
        f"{violation['id']} on {name}": violation["nodes"][:3]
        for name, report in views(visits).items()
        for violation in report["axe"]
        if (violation["id"], name.split()[0]) not in BASELINE
    }
    assert not found


def test_search_finds_words(visits):
    assert any("notation" in hit for hit in visits["search"]["hits"])


def test_a_page_is_light(visits):
    """At most 1 MB over the wire (gzip), without the libraries of the live figures."""
    weights = {n: r["weight"]["page"] for n, r in views(visits).items()}
    assert weights
    assert not {name: bytes_ for name, bytes_ in weights.items() if bytes_ > 1_000_000}
