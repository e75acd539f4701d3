"""The compose file's processes on this machine: the same commands and settings, on loopback and in a test's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fleets.deploy_files import DEPLOY, compose, filled
from support.servers.ports import free_port
from support.servers.redis_server import BINARY
from support.waiting import wait_until

_GUARD_S = 400.0
_NO_TORCH = """\
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers"}:
            raise ModuleNotFoundError(f"{name} is not in the front image", name=name)


sys.meta_path.insert(0, Refuse())
"""


@dataclass
class Member:
    """One started process of a compose service."""

    command: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    stop_within_s: float

    @property
    def url(self) -> str:
        """Its HTTP address."""
        port = self.environment["AVES_WORKER_PORT" if self.command == "worker" else "AVES_PORT"]
        return f"http://127.0.0.1:{port}"

    def wait_until_healthy(self) -> None:
        """Runs the image's health check until it passes."""
        command = [sys.executable, str(DEPLOY / "healthcheck.py")]

        def is_healthy() -> bool:
            assert self.process.poll() is None, f"{self.command} ended with {self.process.returncode}"
            return subprocess.run(command, env=self.environment, check=False).returncode == 0

        wait_until(is_healthy, what=f"{self.command} is healthy", hang_s=_GUARD_S, pause_s=0.5)

    def wait(self) -> int:
        """Its exit code after SIGTERM, within the file's stop_grace_period."""
        return self.process.wait(self.stop_within_s)


class Fleet:
    """Starts members; leaving the context kills what still runs."""

    def __init__(
        self, folder: Path, *, names: tuple[str, ...] = ("docker-compose.yml", "docker-compose.cpu.yml")
    ) -> None:
        self._services: dict[str, Any] = compose(*names)["services"]
        self._folder = folder
        self._redis: dict[str, int] = {}
        self._stack = ExitStack()
        self._no_torch = folder / "no_torch"

    def __enter__(self) -> Fleet:
        self._no_torch.mkdir()
        (self._no_torch / "sitecustomize.py").write_text(_NO_TORCH)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start_redis(self, service: str) -> None:
        """One of the Redis services, by its own command."""
        assert BINARY is not None, "redis-server is needed: apt-get install redis-server"
        port = self._redis[service] = free_port()
        folder = self._folder / service
        folder.mkdir()
        command = [BINARY, *map(filled, self._services[service]["command"][1:])]
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._popen([*command, *place], {**os.environ})

    def start(self, service: str, *, command: str | None = None, **settings: str) -> Member:
        """A front or worker, by its own command or another; fronts get no torch, as in their image."""
        here = {"AVES_HOST": "127.0.0.1"}
        here |= {key: str(free_port()) for key in ("AVES_PORT", "AVES_GRPC_PORT", "AVES_WORKER_PORT")}
        given = {**self._services[service]["environment"], **here, **settings}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AVES_")}
        environment = {**inherited, "OMP_NUM_THREADS": "1", **{key: self._local(value) for key, value in given.items()}}
        if service == "front":
            environment["PYTHONPATH"] = str(self._no_torch)
        (own,) = self._services[service]["command"]
        word = command or own
        grace_s = float(self._services[service]["stop_grace_period"].removesuffix("s"))
        process = self._popen([str(Path(sys.executable).parent / "avesformer"), word], environment)
        return Member(word, environment, process, grace_s)

    def _local(self, value: str) -> str:
        for service, port in self._redis.items():
            value = value.replace(f"//{service}:6379", f"//127.0.0.1:{port}")
        if value.startswith("/var/lib/avesformer/"):
            folder = self._folder / value.removeprefix("/var/lib/avesformer/")
            folder.mkdir(exist_ok=True)
            return str(folder)
        return value

    def _popen(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=self._folder)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process
