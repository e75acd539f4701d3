"""The service as processes of their own, started and ended by the benchmark."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.settings import Settings

_READY = re.compile(r"avesformer is ready: (?P<url>\S+) .*gRPC: (?P<grpc>[^;]+);")
_CLI = "from service.cli.main import main; main()"
_EMULATED_WORKER = """
from service.predictors.fake import FakePredictor, FakeTiming
from service.cli.worker import run_worker
from service.settings import Settings
raise SystemExit(run_worker(Settings(), make_predictor=lambda: FakePredictor(timing={timing})))
"""
_START_S = 180.0
_STOP_S = 60.0


class ServiceDidNotStartError(Exception):
    """A process ended or timed out before it was ready; the message is its last line of output."""


@dataclass(frozen=True, slots=True)
class RunningService:
    """Where a service listens, and the id of its first process."""

    http_port: int
    grpc_target: str
    pid: int


@dataclass(frozen=True, slots=True)
class EmulatedAccelerator:
    """A device that sleeps `batch_s + item_s * n` for n samples, n at most `max_batch`."""

    batch_s: float
    item_s: float
    max_batch: int

    @property
    def full_batch_s(self) -> float:
        """Seconds of a full batch."""
        return self.batch_s + self.item_s * self.max_batch


def cli_command(*arguments: str) -> list[str]:
    """The `avesformer` command with this interpreter."""
    return [sys.executable, "-c", _CLI, *arguments]


@contextmanager
def running_service(settings: Settings, *arguments: str) -> Iterator[RunningService]:
    """A service on free ports with the benchmark's routes; ended with SIGTERM."""
    with _running(["serve", "--port", "0", "--grpc-port", "0", *_model_arguments(settings), *arguments]) as process:
        found = _wait_until_ready(process)
        yield RunningService(urlsplit(found["url"]).port or 80, found["grpc"], process.pid)


@contextmanager
def running_redis() -> Iterator[str | None]:
    """The address of a Redis of our own; None where there is no redis-server program."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="avesformer-bench-"))
        port = _free_port()
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        stack.enter_context(_unwinding_at_sigterm())
        server = subprocess.Popen([program, *place], stdout=subprocess.DEVNULL)
        stack.callback(_end, server)
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def running_over_redis(settings: Settings) -> Iterator[RunningService | None]:
    """A front and a worker with a Redis of their own between them; None where there is no redis-server program."""
    with ExitStack() as stack:
        url = stack.enter_context(running_redis())
        if url is None:
            yield None
            return
        worker_port = str(_free_port())
        stack.enter_context(_running(["worker", "--redis", url, "--port", worker_port, *_model_arguments(settings)]))
        yield stack.enter_context(running_service(settings, "--redis", url))


@contextmanager
def running_emulated_worker(url: str, accelerator: EmulatedAccelerator) -> Iterator[None]:
    """The worker process with an emulated accelerator in the model's place."""
    timing = f"FakeTiming(batch_s={accelerator.batch_s!r}, item_s={accelerator.item_s!r})"
    code = _EMULATED_WORKER.format(timing=timing)
    settings = {"REDIS_URL": url, "REDIS_DATA_URL": "", "WORKER_PORT": _free_port(), "DEVICE": "cpu"}
    with _running([], code=code, MAX_BATCH=accelerator.max_batch, **settings):
        yield


def _model_arguments(settings: Settings) -> list[str]:
    chosen = [] if settings.checkpoint is None else ["--checkpoint", str(settings.checkpoint)]
    return ["--device", settings.device, *chosen]


@contextmanager
def _running(arguments: Sequence[str], *, code: str = _CLI, **settings: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    chosen = {"BENCH_ROUTES": 1, "LOG_LEVEL": "warning"} | settings
    environment = os.environ | {f"AVES_{name}": str(value) for name, value in chosen.items()}
    with _unwinding_at_sigterm():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            yield process
        finally:
            _end(process)


@contextmanager
def _unwinding_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process in order, so that the processes started in the context end too (main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)  # as shells report it

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until_ready(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the addresses in the line that the service prints when it is ready. Later output is read and discarded."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    until_s = time.monotonic() + _START_S
    last_line = "the service did not start in time"
    while True:
        try:
            line = lines.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            raise ServiceDidNotStartError(last_line) from None
        if line is None:
            raise ServiceDidNotStartError(last_line)
        found = _READY.search(line)
        if found is not None:
            return found.groupdict()
        last_line = line.strip() or last_line


def _read_lines(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
