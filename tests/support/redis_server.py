"""A real redis-server on a free loopback port, in a directory of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

BINARY = shutil.which("redis-server")
_START_S = 30.0


class RedisServer:
    """Starts, kills and restarts one server; with `is_durable` it appends every write to disk before it answers."""

    def __init__(self, directory: Path, *, is_durable: bool = False) -> None:
        self._directory = directory
        self._is_durable = is_durable
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert BINARY is not None, "redis-server is needed: apt-get install redis-server"
        durable = ["--appendonly", "yes", "--appendfsync", "always"] if self._is_durable else ["--appendonly", "no"]
        self._directory.mkdir(parents=True, exist_ok=True)
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        self._process = subprocess.Popen([BINARY, *place, "--save", "", *durable], stdout=subprocess.DEVNULL)
        _wait_for_port(self.port)

    def kill(self) -> None:
        """As the kernel would: nothing is flushed or said goodbye to."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    """Until it answers PING with PONG: an append-only server is LOADING at first."""
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as link:
                link.sendall(b"PING\r\n")
                if link.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise TimeoutError("redis-server did not start")
