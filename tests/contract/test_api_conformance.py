"""Schemathesis over the whole /openapi.json against the real server: answers are what the document says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from support.servers.service_process import ServiceProcess

ROOT = Path(__file__).parents[2]
GUARD_S = 280
# In the suite: the same few requests each time. In a search: new ones, and those at the bounds of each parameter.
SUITE = ("--phases", "fuzzing,stateful", "--max-examples", "8", "--generation-deterministic")
SEARCH = ("--phases", "coverage,fuzzing,stateful", "--max-examples", "150")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "lines_conformance",
)


@pytest.mark.hypothesis
def test_every_answer_is_as_documented(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="make test installs it")
    how = SEARCH if settings.get_current_profile_name() == "search" else SUITE
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    environment["SCHEMATHESIS_HOOKS"] = "support.clients.api_hooks"
    with ServiceProcess(state_dir=tmp_path / "state") as service:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--continue-on-failure", "--no-color"),
            *("--workers", "2", "--request-timeout", str(GUARD_S)),
            *("--suppress-health-check", "all", *how),  # a busy machine is no finding
        ]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=GUARD_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 selected / 10 total" in done.stdout
