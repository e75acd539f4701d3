"""Worker processes that tests start, kill, stop and start again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import httpx
from support.servers.ports import free_port
from support.servers.python_module import module_command

_START_S = 60.0
TESTS = Path(__file__).parents[2]


class WorkerProcess:
    """One `support.servers.fake_worker`; a restarted one keeps its ops port and so its name."""

    def __init__(
        self,
        url: str,
        *,
        data_url: str | None = None,
        lease_s: float = 1.0,
        batch_s: float = 0.02,
        item_s: float = 0.0,
        max_batch: int = 8,
        poison_hangs: bool = False,
    ) -> None:
        self.port = free_port()
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
            "AVES_REDIS_URL": url,
            "AVES_REDIS_DATA_URL": data_url or "",
            "AVES_LEASE_S": str(lease_s),
            "AVES_WORKER_PORT": str(self.port),
            "AVES_MAX_BATCH": str(max_batch),
            "AVES_DEVICE": "cpu",
            "AVES_LOG_LEVEL": "warning",
            "AVES_DEVICE_TIMEOUT_S": "1" if poison_hangs else "20",
            "FAKE_POISON_HANGS": "1" if poison_hangs else "",
            "FAKE_BATCH_S": str(batch_s),
            "FAKE_ITEM_S": str(item_s),
            "OMP_NUM_THREADS": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> WorkerProcess:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        self.process = subprocess.Popen(module_command("support.servers.fake_worker"), env=self._environment, cwd=TESTS)

    async def wait_ready(self) -> None:
        async with asyncio.timeout(_START_S), httpx.AsyncClient() as client:
            while not await self._is_ready(client):
                await asyncio.sleep(0.05)

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def metric(self, name: str) -> float:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"avesformer_{name}"))

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()


async def keep_alive(workers: list[WorkerProcess]) -> None:
    """Start each worker again that has ended, as an orchestrator does, until cancelled."""
    while True:
        for worker in workers:
            if worker.process is not None and worker.process.poll() is not None:
                worker.start()
        await asyncio.sleep(0.1)
