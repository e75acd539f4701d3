"""Every folder with more than five modules has a README.md, and what it names is there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAX_MODULES, MAX_LINES = 5, 20
_NAMED_FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|js|html|css|proto))`")


def source_folders() -> list[str]:
    """Return the folders that hold more than five modules or pages, beside `__init__.py`.

    tests/unit mirrors the source tree, so its folders are described by the folders that they test.
    """
    files = [
        path.relative_to(ROOT)
        for top in ("service", "model", "tests")
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".js", ".html", ".css") and path.name != "__init__.py"
    ]
    counted = Counter(str(path.parent) for path in files if path.parts[:2] != ("tests", "unit"))
    return sorted(folder for folder, num in counted.items() if num > MAX_MODULES)


READMES = sorted(
    str(path.parent.relative_to(ROOT))
    for top in ("service", "model", "tests")
    for path in (ROOT / top).rglob("README.md")
)


@pytest.mark.parametrize("folder", source_folders())
def test_a_large_folder_says_what_it_is_for(folder: str) -> None:
    assert folder in READMES


@pytest.mark.parametrize("folder", sorted({*READMES} - {"model"}))
def test_a_readme_is_short_and_names_files_that_exist(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text("utf-8")
    lines = text.strip().splitlines()
    assert lines[0] == f"# {folder}"
    assert len(lines) <= MAX_LINES
    named = _NAMED_FILE.findall(text)
    places = [ROOT, ROOT / folder, ROOT / "tests"]
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert not missing
