"""Actions in a forked process that the jail of a decoder has locked in; as a program, one after another."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from service.media.sandbox.confinement import jail
from service.media.sandbox.confinement.jail import Filters

LIBC = ctypes.CDLL(None, use_errno=True)
WORKED, OS_ERROR, MEMORY_ERROR = 0, 7, 8
FILTERS = Filters()
_TESTS = Path(__file__).parents[2]
_GUARD_S = 120.0
_ACTION_GUARD_S = 60.0
_TRIES = 2


def run_jailed(action: Callable[[], object], *, has_job: bool = True, memory_bytes: int | None = None) -> int:
    """Fork, lock in, act; returns WORKED, OS_ERROR, MEMORY_ERROR, or the number of the signal, negative.

    With `has_job` the process is where it meets an upload; else where it waits for its job. The child of a process with
    threads may find a lock taken for ever: one that does not end is killed, and another one is forked.
    """
    for _ in range(_TRIES):
        pid = os.fork()
        if pid == 0:
            _act(action, has_job=has_job, memory_bytes=memory_bytes)
        until_s = time.monotonic() + _ACTION_GUARD_S
        while time.monotonic() < until_s:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    raise TimeoutError(f"{_TRIES} forked children did not end")


def _act(action: Callable[[], object], *, has_job: bool, memory_bytes: int | None) -> NoReturn:
    code = 1
    faulthandler.disable()  # an end by SIGILL is expected and needs no trace in the output of the tests
    try:
        jail.limit_resources()
        if not jail.install(FILTERS.child):
            os._exit(9)
        if memory_bytes is not None:
            jail.limit_memory(memory_bytes)
        if has_job and not jail.install(FILTERS.child_with_job):
            os._exit(9)
        action()
        code = WORKED
    except (OSError, ValueError):  # ValueError: how `resource` reports EPERM
        code = OS_ERROR
    except (MemoryError, RuntimeError):  # RuntimeError: a thread that cannot be started
        code = MEMORY_ERROR
    finally:
        os._exit(code)


def call(number: int, *arguments: object) -> None:
    """A bare system call; raises OSError where it fails."""
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "call")


def survivors(numbers: Iterable[int]) -> dict[str, int]:
    """Return what each bare system call without arguments came to, by its number, of those that did not end by SIGSYS.

    A small process forks for them: a fork of the tests' own takes 50 ms.
    """
    environment = os.environ | {"PYTHONPATH": f"{_TESTS}{os.pathsep}{_TESTS.parent}"}
    command = [sys.executable, "-m", "support.components.jailed", json.dumps(sorted(numbers))]
    done = subprocess.run(
        command, env=environment, cwd=_TESTS, capture_output=True, text=True, timeout=_GUARD_S, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["num_calls"] == len(set(numbers))
    survived: dict[str, int] = found["survived"]
    return survived


def main() -> None:
    """Try the calls of the first argument, a JSON list, and print how many they were and what survived."""
    codes = {
        number: run_jailed(lambda number=number: call(number, 0, 0, 0, 0, 0, 0))  # type: ignore[misc]
        for number in json.loads(sys.argv[1])
    }
    survived = {number: code for number, code in codes.items() if code != -signal.SIGSYS}
    print(json.dumps({"num_calls": len(codes), "survived": survived}))  # noqa: T201


if __name__ == "__main__":
    main()
