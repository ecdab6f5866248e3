"""The built book in a real browser, every other host blocked.

Each page is opened on a desktop and on a phone, in light and in dark. The
screenshots stay in `_build/screenshots` to be looked at.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"

# What the tools beneath the book do and the book cannot mend: rule and page.
# docutils marks each entry of a bibliography as doc-biblioentry, a role that
# has since been deprecated.
BASELINE = {
    ("aria-deprecated-role", "book/bibliography.html"),
    ("aria-required-children", "book/bibliography.html"),
}


def missing() -> str | None:
    """What stands in the way of a browser test, if anything."""
    if not SITE.is_dir():
        return "the book is not built: make check-book"
    if shutil.which("node") is None:
        return "node is not installed"
    if chromium() is None:
        return "Chromium is not installed"
    if not (ROOT / "node_modules" / ".stamp").is_file():
        return "no playwright-core: python tools/vendor.py tests"
    if not (ROOT / "book" / "_static" / "vendor" / ".stamp").is_file():
        return "built without vendored JavaScript: python tools/vendor.py"
    return None


def chromium() -> str | None:
    names = ["chromium", "chromium-browser", "google-chrome"]
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    return next(filter(None, candidates), None)


def pages() -> list[str]:
    # index.html only leads on to the preface.
    generated = {"index.html", "genindex.html", "py-modindex.html"}
    return sorted(
        path.relative_to(SITE).as_posix()
        for path in SITE.rglob("*.html")
        if "_static" not in path.parts and path.name not in generated
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def visits():
    reason = missing()
    if reason:
        if os.environ.get("NTB_REQUIRE_ALL") == "1":
            pytest.fail(f"browser tests cannot run: {reason}")
        pytest.skip(f"NO BROWSER TESTS: {reason}")
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        order = {
            "base": f"http://127.0.0.1:{server.server_port}/",
            "pages": pages(),
            "chromium": chromium(),
            "shots": str(SHOTS),
        }
        node = subprocess.run(
            ["node", "tests/browser/visit.mjs", json.dumps(order)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        server.shutdown()
    assert node.returncode == 0, node.stderr
    return json.loads(node.stdout)


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
