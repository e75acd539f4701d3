"""The service as a process of its own, with the fake predictor, for tests of its start and end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
from support.servers.python_module import module_command

_TESTS = Path(__file__).parents[2]
_GUARD_S = 200.0


class ServiceProcess:
    """Started on free ports; `with` ends it. Everything it prints is kept in `lines`.

    Args:
        module: what is run.
        guard_s: longest wait for a line.
        prefix: command that starts the interpreter, such as one that changes the user.
        settings: of the service; names with fake_ are for the fake predictor.
    """

    def __init__(
        self,
        *,
        module: str = "support.servers.serve_fake",
        guard_s: float = _GUARD_S,
        prefix: Sequence[str] = (),
        **settings: object,
    ) -> None:
        self._guard_s = guard_s
        chosen = {"port": 0, "grpc_port": 0, "decode_processes": 2, "max_batch": 8, **settings}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AVES_")}
        environment |= {f"AVES_{name.upper()}": str(value) for name, value in chosen.items()}
        environment |= {"PYTHONPATH": f"{_TESTS}{os.pathsep}{_TESTS.parent}", "OMP_NUM_THREADS": "1"}
        environment |= {name.upper(): str(value) for name, value in settings.items() if name.startswith("fake_")}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*prefix, *module_command(module)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_TESTS.parent,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.url = ""
        self.grpc_target = ""

    def __enter__(self) -> ServiceProcess:
        try:
            line = self.wait_for_line("is ready")
        except AssertionError:
            self.__exit__()
            raise
        match = re.search(r"ready: (\S+) .*gRPC: ([^;]+);", line)
        assert match is not None
        self.url, self.grpc_target = match.groups()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reading.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def wait_for_line(self, text: str) -> str:
        """The first line with `text`."""
        end_s = time.monotonic() + self._guard_s
        while time.monotonic() < end_s:
            found = next((line for line in list(self.lines) if text in line), None)
            if found is not None:
                return found
            if self.process.poll() is not None:
                self._reading.join()
                break
            time.sleep(0.01)
        found = next((line for line in self.lines if text in line), None)
        assert found is not None, "".join(self.lines)
        return found

    def client(self) -> httpx.Client:
        """An HTTP client for it."""
        return httpx.Client(base_url=self.url, timeout=_GUARD_S)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(_GUARD_S)

    def family(self) -> list[psutil.Process]:
        """The process and all its children."""
        whole = psutil.Process(self.process.pid)
        return [whole, *whole.children(recursive=True)]

    def living(self) -> list[psutil.Process]:
        """The process and those of its children that run now; zombies are none."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels now; 0 for one without samples."""
        text = httpx.get(f"{self.url}/metrics", timeout=_GUARD_S).text
        found = re.findall(rf"^avesformer_{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for held, value in found if all(each in held for each in wanted))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
