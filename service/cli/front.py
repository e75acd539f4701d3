"""Run a front: listen, load the model, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from service.rest.connection.server import bind
from service.settings import Settings
from service.wiring.front import Front
from service.wiring.version import service_version

# Seconds for requests that were ended by the drain to send `draining` and to release their resources.
_STOPPING_S = 5.0


class ListenError(Exception):
    """A port cannot be used. The message is shown to the user."""


def check_ports(settings: Settings) -> None:
    """Raise ListenError if a port cannot be used, which is known before the front is built; `listen` checks again."""
    for port, option in ((settings.port, "--port"), (settings.grpc_port, "--grpc-port")):
        if not port:  # the system chooses a free one
            continue
        try:
            bind(settings.host, port).close()
        except OSError as error:
            raise _listen_error(error, settings.host, port, option=option) from error


async def listen(front: Front) -> tuple[int, int]:
    """Listen on the HTTP and gRPC ports and return their numbers. Raises ListenError."""
    settings = front.settings
    http_port = await _listening(front.http.start(), settings.host, settings.port, option="--port")
    grpc_port = await _listening(front.grpc.start(), settings.host, settings.grpc_port, option="--grpc-port")
    return http_port, grpc_port


async def warm_up(front: Front) -> None:
    """Load the model, then start the job runner. Raises any error of loading."""
    core = front.core
    await core.segmenter.start()
    model = await core.segmenter.describe()
    core.metrics.build_info.labels(version=service_version(), variant=model.variant, checkpoint=model.checkpoint).set(1)
    front.jobs.start()


async def drain(front: Front, hurrying: asyncio.Event) -> None:
    """Refuse new work and let running requests finish until the drain limit or until `hurrying` is set.

    Remaining requests fail as `draining`. Jobs are requeued at once, for another front or for the next start.
    """
    admission = front.core.admission
    await front.jobs.aclose()
    await front.grpc.start_draining()
    admission.start_draining()
    idle = asyncio.create_task(admission.wait_until_idle(front.settings.drain_s))
    hurry = asyncio.create_task(hurrying.wait())
    await asyncio.wait({idle, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    idle.cancel()
    if admission.in_flight:
        admission.stop_running()
        await admission.wait_until_idle(_STOPPING_S)


async def _listening(starting: Awaitable[int], host: str, port: int, *, option: str) -> int:
    try:
        return await starting
    except OSError as error:
        raise _listen_error(error, host, port, option=option) from error


def _listen_error(error: OSError, host: str, port: int, *, option: str) -> ListenError:
    reason = f" ({error.strerror})" if error.strerror else ""
    return ListenError(f"cannot listen on {host}:{port}{reason}; choose another port with {option}")
