"""`avesformer worker`: event loop and signals of a worker process."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from service.cli.garbage import freeze_started_objects, pause_collection
from service.settings import Settings
from service.telemetry.logs import configure_logging
from service.wiring.predictor import MakePredictor
from service.wiring.worker import build_worker, worker_name
from service.worker.worker import Worker

logger = logging.getLogger("avesformer.worker")


def run_worker(settings: Settings, *, make_predictor: MakePredictor | None = None) -> int:
    """Run until SIGTERM or SIGINT. Return 0 after a drain, 1 if the worker could not start or its device died."""
    configure_logging(settings.log_level)
    pause_collection()
    try:
        return asyncio.run(_work(settings, make_predictor))
    except OSError as error:
        _complain(f"cannot listen on {settings.host}:{settings.worker_port} ({error.strerror or error})")
        return 1


async def _work(settings: Settings, make_predictor: MakePredictor | None) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with build_worker(settings, make_predictor=make_predictor) as built:
        port = await built.http.start()
        _complain(f"worker listens on http://{settings.host}:{port} (livez, readyz, metrics); Ctrl-C stops")
        return await _run(built.worker, stopping, port)


async def _run(worker: Worker, stopping: asyncio.Event, port: int) -> int:
    """Run the worker until a signal. A signal that arrives while the model loads ends the process at once."""
    running = asyncio.create_task(worker.run(stopping, name=worker_name(port), on_warm=freeze_started_objects))
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.has_started and not running.done():
            running.cancel()
            return 0
        is_healthy = await running
    except Exception as error:
        logger.exception("worker failed")
        _complain(f"the worker failed: {error}")
        return 1
    finally:
        waiting.cancel()
    if not is_healthy:
        _complain("the compute device stopped answering; restart the worker")
    return 0 if is_healthy else 1


def _complain(line: str) -> None:
    print(f"avesformer: {line}", file=sys.stderr)
