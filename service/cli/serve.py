"""`avesformer serve`: event loop, signals and messages on the terminal."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from service.aio.tasks import end_tasks
from service.cli.front import ListenError, check_ports, drain, listen, warm_up
from service.cli.garbage import freeze_started_objects, pause_collection
from service.settings import Settings
from service.telemetry.logs import configure_logging
from service.wiring.descriptors import ensure_descriptors
from service.wiring.front import Front, build_front
from service.wiring.predictor import MakePredictor

logger = logging.getLogger("avesformer.serve")
# Address to show to the user for a server that listens on all addresses.
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


class StartError(Exception):
    """The service could not start. The message is shown to the user."""


def run_front(settings: Settings, *, make_predictor: MakePredictor | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Return 0 after a drain, 1 if the service could not start or failed."""
    configure_logging(settings.log_level)
    pause_collection()
    ensure_descriptors(settings)
    logger.info("bounds", extra=settings.bounds())
    try:
        check_ports(settings)
        return asyncio.run(_serve(settings, make_predictor))
    except (StartError, ListenError) as error:
        print(f"avesformer: {error}", file=sys.stderr)
        return 1


async def _serve(settings: Settings, make_predictor: MakePredictor | None) -> int:
    stopping, hurrying = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurrying if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with build_front(settings, make_predictor=make_predictor) as front:
            warming = await _listen(front)
            try:
                await _until_stopped(warming, stopping)
                print("avesformer: draining, new requests are refused", file=sys.stderr)
                await drain(front, hurrying)
                logger.info("drained")
            finally:
                await end_tasks([warming])
            return 0
    except OSError as error:
        raise StartError(f"cannot start: {error.strerror or error}") from error


async def _listen(front: Front) -> asyncio.Task[None]:
    """Listen, and return the task that loads the model."""
    settings = front.settings
    port, grpc_port = await listen(front)
    warming = asyncio.create_task(warm_up(front), name="warm-up")
    scheme = "http" if settings.tls_cert is None else "https"
    host = _ANY_ADDRESS.get(settings.host, f"[{settings.host}]" if ":" in settings.host else settings.host)
    note = "on all addresses; " if settings.host in _ANY_ADDRESS else ""
    warming.add_done_callback(
        lambda done: _on_warm(done, f"{scheme}://{host}:{port}", f"{host}:{grpc_port}", note=note)
    )
    return warming


def _on_warm(warming: asyncio.Task[None], url: str, grpc_address: str, *, note: str) -> None:
    if not warming.cancelled() and warming.exception() is None:
        freeze_started_objects()
        more = f"({note}docs: {url}/docs, gRPC: {grpc_address}; Ctrl-C stops)"
        print(f"avesformer is ready: {url}  {more}", file=sys.stderr)


async def _until_stopped(warming: asyncio.Task[None], stopping: asyncio.Event) -> None:
    """Wait for a signal. Raises StartError if the model cannot be loaded."""
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({waiting, warming}, return_when=asyncio.FIRST_COMPLETED)
        if warming.done() and not waiting.done():
            error = warming.exception()
            if error is not None:
                logger.error("model could not be loaded", exc_info=error)
                raise StartError(f"the model could not be loaded: {error}")
            await waiting
    finally:
        waiting.cancel()
