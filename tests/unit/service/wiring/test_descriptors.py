"""The limit of open files, checked at start; in a process of its own, since a limit that was lowered stays so."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from service.settings import Settings
from service.wiring.descriptors import ensure_descriptors, needed_descriptors
settings = Settings(max_connections=64, decode_processes=2)
needed = needed_descriptors(settings)
soft, hard = (eval(word) for word in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(ensure_descriptors(settings), resource.getrlimit(resource.RLIMIT_NOFILE)[0] - needed)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "told"),
    [
        ("needed - 200", "needed + 50", "True 0"),
        ("needed + 10", "needed + 50", "True 10"),
        ("needed - 200", "needed - 100", "False -100"),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_may(soft: str, hard: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, soft, hard], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == told
    assert ("too low" in done.stderr) == told.startswith("False")
