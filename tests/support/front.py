"""A real front on free loopback ports in the test's own loop: both servers, real decoders, the given predictor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.backends.predictor_fake import FakePredictor
from service.bootstrap import Front, build_front
from service.ports import Predictor
from service.settings import Settings


@dataclass(frozen=True)
class RunningFront:
    """A front and where it listens."""

    front: Front
    http_port: int
    grpc_port: int

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"


@asynccontextmanager
async def running_front(
    *, make_predictor: Callable[[], Predictor] = FakePredictor, is_warm: bool = True, **settings: object
) -> AsyncIterator[RunningFront]:
    """Start a front; `settings` are fields of Settings. With `is_warm` it is ready when this returns."""
    chosen = {"port": 0, "grpc_port": 0, "decode_processes": 2, "max_batch": 8, **settings}
    async with build_front(Settings(**chosen), make_predictor=make_predictor) as front:  # type: ignore[arg-type]
        http_port, grpc_port = await front.listen()
        if is_warm:
            await front.warming
        yield RunningFront(front, http_port, grpc_port)
