"""The examples in README.md and docs/ run as they stand against the real service, and the site builds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.service_process import ServiceProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(language, code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (language, code) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8")), start=1)
]
GUARD_S = 240


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("state")
    shipped = {"checkpoint": "tiny", "device": "cpu"}  # `lite` answers the same calls, at ten times the work
    with ServiceProcess(module="support.servers.serve_shipped", state_dir=folder, **shipped) as process:
        yield process


@pytest.mark.parametrize(("language", "code"), SNIPPETS)
def test_snippet_runs(language: str, code: str, service: ServiceProcess, tmp_path: Path) -> None:
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("needs curl (apt-get install curl)")
    here = code.replace("http://127.0.0.1:8000", service.url).replace("127.0.0.1:50051", service.grpc_target)
    command = [sys.executable, "-c", here] if language == "python" else ["bash", "-euo", "pipefail", "-c", here]
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "-o " in here or "open_client" in here, "an example shows something"


def test_there_are_snippets_for_every_transport() -> None:
    text = " ".join(str(parameter.values[1]) for parameter in SNIPPETS)
    for word in ("curl", "httpx", "grpc://", "ndjson", "/v1/jobs", "loadRes"):
        assert word in text


def test_the_site_builds_without_requests_to_other_hosts(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert {page.stem for page in pages} >= {page.stem for page in PAGES if page.parent == ROOT / "docs"}
    for page in pages:
        assert not re.findall(r"(?:src|<link[^>]*href)=\"?https?://", page.read_text(encoding="utf-8")), page.name
