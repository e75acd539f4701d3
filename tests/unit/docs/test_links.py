"""Relative links in tracked markdown files name files, folders and headings that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_LINK = re.compile(r"!?\[[^\]\[]*\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


def _documents() -> list[str]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.CalledProcessError):  # an archive without its history
        return sorted(
            str(path.relative_to(ROOT)) for path in ROOT.rglob("*.md") if not {".venv", "node_modules"} & {*path.parts}
        )
    return listed.stdout.split("\0")[:-1]


def _without_code(text: str) -> str:
    return _FENCE.sub("", text)


def _anchors(path: Path) -> set[str]:
    """Anchors of the headings, made as GitHub makes them: lower case, no punctuation, blanks as hyphens."""
    found: set[str] = set()
    for heading in _HEADING.findall(_without_code(path.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(anchor)
    return found


def _broken_links(document: Path) -> list[str]:
    broken = []
    for target in _LINK.findall(_without_code(document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        is_there = path.is_relative_to(ROOT) and path.exists()
        if not is_there or (anchor and path.suffix == ".md" and anchor not in _anchors(path)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("name", _documents())
def test_relative_links_resolve(name):
    assert _broken_links(ROOT / name) == []


def test_a_missing_file_and_a_missing_heading_are_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    document = tmp_path / "page.md"
    document.write_text(
        "# One page\n[a](page.md#one-page) [b](absent.md) [c](#absent) [d](../outside.md) [e](https://example.org/)\n"
        "```\n[f](in-a-fence.md)\n```\n"
    )
    assert _broken_links(document) == ["absent.md", "#absent", "../outside.md"]
