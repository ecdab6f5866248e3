"""Bring other people's JavaScript to the book, by pinned version and checksum.

    python tools/vendor.py          # what the pages need: MathJax, widget libraries
    python tools/vendor.py tests    # what the browser tests need

Packages come through the npm client as `tools/vendor.json` pins them, are
checked against the sha512 recorded there, and the few files in use are
unpacked into git-ignored folders. Nothing is installed and no package script
runs. Without npm the pages fall back to the theme's default addresses, and
this tool says so; with NTB_REQUIRE_ALL=1 that is an error.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "tools" / "vendor.json"
FOLDERS = {
    "site": ROOT / "book" / "_static" / "vendor",
    "tests": ROOT / "node_modules",
}


def stamp(group: str) -> str:
    """A fingerprint of everything this group is pinned to."""
    pins = json.dumps(json.loads(PINS.read_text("utf-8"))[group], sort_keys=True)
    return hashlib.sha256(pins.encode()).hexdigest()


def is_complete(group: str = "site") -> bool:
    """Whether the group's files are in place, at the pinned versions."""
    mark = FOLDERS[group] / ".stamp"
    return mark.is_file() and mark.read_text("utf-8") == stamp(group)


def fetch(pin: dict, folder: Path) -> Path:
    """Have npm pack one package; return the tarball once its checksum holds."""
    spec = f"{pin['package']}@{pin['version']}"
    npm = subprocess.run(
        ["npm", "pack", "--json", "--ignore-scripts", spec],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if npm.returncode:
        raise RuntimeError(f"npm pack {spec} failed:\n{npm.stderr.strip()}")
    tarball = folder / json.loads(npm.stdout)[0]["filename"]
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != pin["integrity"]:
        raise RuntimeError(
            f"{spec}: checksum is {found}, tools/vendor.json pins {pin['integrity']}"
        )
    return tarball


def unpack(tarball: Path, files: dict[str, str], target: Path) -> int:
    """Copy the chosen files out of a package; return how many there were.

    A source that ends in a slash, or an empty one, is a folder.
    """
    count = 0
    with tarfile.open(tarball) as archive:
        members = {
            member.name.split("/", 1)[1]: member
            for member in archive
            if member.isfile() and "/" in member.name
        }
        for source, place in files.items():
            is_folder = source == "" or source.endswith("/")
            names = [
                name
                for name in members
                if (name.startswith(source) if is_folder else name == source)
            ]
            if not names:
                raise RuntimeError(f"{tarball.name} holds no {source}")
            for name in names:
                inner = name[len(source) :] if is_folder else Path(name).name
                path = (target / place / inner).resolve()
                if not path.is_relative_to(target):
                    raise RuntimeError(f"{tarball.name}: {name} leads out of {target}")
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = archive.extractfile(members[name])
                assert stream is not None
                path.write_bytes(stream.read())
                count += 1
    return count


def vendor(group: str) -> None:
    """Bring one group, unless it is already there."""
    target = FOLDERS[group]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for pin in json.loads(PINS.read_text("utf-8"))[group]:
        with tempfile.TemporaryDirectory() as folder:
            count = unpack(fetch(pin, Path(folder)), pin["files"], target)
        print(f"vendor: {pin['package']} {pin['version']}, {count} files")
    (target / ".stamp").write_text(stamp(group), "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", nargs="?", choices=FOLDERS, default="site")
    group = parser.parse_args().group
    if is_complete(group):
        return 0
    try:
        if shutil.which("npm") is None:
            raise RuntimeError("npm is not installed")
        vendor(group)
    except RuntimeError as why:
        shutil.rmtree(FOLDERS[group], ignore_errors=True)
        effect = {
            "site": "The pages will load MathJax and the widget libraries from\n"
            "the theme's default addresses on the internet.",
            "tests": "The browser tests will be skipped.",
        }[group]
        line = "!" * 72
        print(f"{line}\nNO VENDORED JAVASCRIPT: {why}\n{effect}\n{line}", flush=True)
        return 1 if os.environ.get("NTB_REQUIRE_ALL") == "1" else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
