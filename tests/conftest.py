"""What holds for every test: no settings from the caller's environment, and tests whose tool is missing left out."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no finding; the suite tries the same examples each time, so that a red run is red for its change.
# `--hypothesis-profile=search` looks for new ones: fresh seeds, many more of them.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("suite"), derandomize=False, max_examples=2000)
settings.load_profile("suite")

# Marker: the program that its tests start, and how to get it.
TOOLS = {
    "redis": (os.environ.get("REDIS_SERVER", "redis-server"), "apt-get install redis-server"),
    "browser": ("chromium", "apt-get install chromium"),
    "strace": ("strace", "apt-get install strace"),
    "java": ("javac", "apt-get install default-jdk-headless"),
}
# An authority that signs nothing. HTTP clients of tests talk to this machine, and reading the certificates of all
# public authorities takes each of them 60 ms.
AUTHORITY = Path(__file__).parent / "assets" / "authority.pem"
_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    """Tests see the defaults, whatever the shell has set. Garbage collection pauses until the tests are collected."""
    gc.disable()
    for name in [name for name in os.environ if name.startswith("AVES_")]:
        del os.environ[name]
    os.environ["SSL_CERT_FILE"] = str(AUTHORITY)
    # Tests of the jail fork their own process. Where earlier tests used gRPC, its handlers would stop its threads
    # and start others in the forked process, and the filter would end that process for it.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    config.stash[_LEFT_OUT] = {}


def pytest_collection_finish() -> None:
    """Exclude modules and tests from garbage collection: they stay, and each collection would visit them."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a program that this machine lacks."""
    missing = {marker for marker, (program, _) in TOOLS.items() if shutil.which(program) is None}
    for marker in missing:
        left_out = [item for item in items if item.get_closest_marker(marker)]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
            config.stash[_LEFT_OUT][marker] = len(left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of `pytest -n`: tell the one that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash[_LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear what a process of `pytest -n` left out; each of them collects everything, so one's numbers are all."""
    node.config.stash[_LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for each program that was missing."""
    for marker, num in config.stash[_LEFT_OUT].items():
        program, remedy = TOOLS[marker]
        terminalreporter.write_line(f"{num} tests left out: they need {program} ({remedy})", yellow=True)
