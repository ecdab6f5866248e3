"""Write the book's public address everywhere, from one place.

    python tools/set_repository.py https://github.com/OWNER/NAME [--tag v0.1.0]
    python tools/set_repository.py            # carry what is on file
    python tools/set_repository.py --check    # exit 1 if a file disagrees

The address stands in `[tool.next-token-book]` of pyproject.toml. From there it
goes into the setup cell of every notebook, CITATION.cff and the README; the
book's build reads it directly, and shows the Colab button once it is there.
As long as it is empty, all of them say plainly that there is none.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from bootstrap_cell import address, bootstrap_source  # noqa: E402

URL = re.compile(r"https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
CLONE = "<!-- address -->"


def pyproject(text: str, repository: str, tag: str) -> str:
    head, mark, tail = text.partition("[tool.next-token-book]\n")
    assert mark, "pyproject.toml has no [tool.next-token-book]"
    for name, value in [("repository", repository), ("tag", tag)]:
        tail = re.sub(rf'(?m)^{name} = ".*"$', f'{name} = "{value}"', tail, count=1)
    return head + mark + tail


def citation(text: str, repository: str, tag: str) -> str:
    text = re.sub(r"(?m)^repository-code: .*\n", "", text)
    return text + (f"repository-code: {repository}\n" if repository else "")


def readme(text: str, repository: str, tag: str) -> str:
    line = (
        f"Clone it: `git clone {repository}`"
        if repository
        else "The book has no public address yet: start from your copy of it."
    )
    return re.sub(rf"{CLONE}.*", f"{CLONE} {line}", text)


def notebook(text: str, repository: str, tag: str) -> str:
    content = json.loads(text)
    cell = content["cells"][1]
    cell["source"] = bootstrap_source(repository, tag).splitlines(keepends=True)
    dumped = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    return dumped + "\n"


def places() -> dict[Path, object]:
    found = {
        ROOT / "pyproject.toml": pyproject,
        ROOT / "CITATION.cff": citation,
        ROOT / "README.md": readme,
    }
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found[path] = notebook
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", nargs="?", help="https://github.com/OWNER/NAME")
    parser.add_argument("--tag", help="the tag that Colab installs")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    repository, tag = address()
    if arguments.repository is not None:
        repository = arguments.repository.removesuffix("/").removesuffix(".git")
    tag = arguments.tag or tag
    if repository and not URL.fullmatch(repository):
        parser.error(f"{repository!r} is not https://github.com/OWNER/NAME")
    if not TAG.fullmatch(tag):
        parser.error(f"{tag!r} is not a tag name")
    stale = []
    for path, write in places().items():
        old = path.read_text("utf-8")
        new = write(old, repository, tag)  # type: ignore[operator]
        if new != old:
            stale.append(path.relative_to(ROOT).as_posix())
            if not arguments.check:
                path.write_text(new, "utf-8")
    for name in stale:
        print(f"{'differs' if arguments.check else 'written'}: {name}")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
