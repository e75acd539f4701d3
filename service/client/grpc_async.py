"""The gRPC client for asyncio, over the blocking one's calls.

grpc.aio loses the status of a call that the server ends while a message is being written ("Internal error from Core",
grpcio 1.85). For a refused upload, that status is the answer. The blocking API keeps it; a thread reads each open call.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final, TypeVar

from service.client.answer import Answer, OnEvent
from service.client.closing import AsyncClosedOnExit
from service.client.grpc_client import GrpcClient, RunningCall
from service.client.policy import ClientPolicy
from service.client.retry import gather_async, retried_async
from service.domain.live import LiveEvent, LiveInput, LiveOptions
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent
from service.domain.result import ModelInfo

_E = TypeVar("_E")
_MAX_CALLS = 256
# Live inputs taken from the caller before gRPC has taken the last one.
_READ_AHEAD = 4
_END: Final = None


class AsyncGrpcClient(AsyncClosedOnExit):
    """Like GrpcClient, for asyncio."""

    def __init__(self, target: str, policy: ClientPolicy | None = None, *, is_secure: bool = False) -> None:
        self._policy = policy or ClientPolicy()
        self._blocking = GrpcClient(target, policy, is_secure=is_secure)
        self._threads = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="grpc-client")

    async def aclose(self) -> None:
        """Close the channel. Calls in progress end."""
        self._blocking.close()
        await asyncio.to_thread(self._threads.shutdown)

    async def model(self) -> ModelInfo:
        """Return the model of the service. Raises ServiceError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._blocking.model)

    async def segment(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, on_event: OnEvent | None = None
    ) -> Answer:
        """Return the whole answer to a clip. Retryable errors are retried. Raises ServiceError."""
        return await retried_async(lambda: gather_async(self.stream(source, options), on_event=on_event), self._policy)

    async def stream(
        self,
        source: Path | bytes,
        options: SegmentOptions | None = None,
        *,
        request_id: str | None = None,
        resume_from_index: int = 0,
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the events of one attempt; see `GrpcClient.stream`. Raises ServiceError."""
        call = self._blocking.start_segment(
            source, options or SegmentOptions(), request_id=request_id, resume_from_index=resume_from_index
        )
        async with aclosing(self._events(call)) as events:
            async for event in events:
                yield event

    async def live(
        self, inputs: AsyncIterator[LiveInput], options: LiveOptions | None = None
    ) -> AsyncGenerator[LiveEvent, None]:
        """Yield the answers to a live stream. Raises ServiceError, and the errors of `inputs`."""
        bridge = _Bridge()
        call = self._blocking.start_live(bridge, options or LiveOptions())
        feeding = asyncio.create_task(bridge.feed(inputs, call), name="live inputs")
        try:
            async with aclosing(self._events(call)) as events:
                async for event in events:
                    yield event
        finally:
            await bridge.end(feeding)

    async def _events(self, call: RunningCall[_E]) -> AsyncGenerator[_E, None]:
        loop = asyncio.get_running_loop()
        events = call.events()
        try:
            while True:
                reading = loop.run_in_executor(self._threads, next, events, _END)
                try:
                    event = await asyncio.shield(reading)
                except asyncio.CancelledError:
                    call.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                    raise
                if event is _END:
                    return
                yield event
        finally:
            call.cancel()


class _Bridge:
    """Asynchronous inputs as the blocking iterator that gRPC reads in its own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: queue.SimpleQueue[LiveInput | None] = queue.SimpleQueue()
        self._places = asyncio.Semaphore(_READ_AHEAD)

    def __iter__(self) -> Iterator[LiveInput]:
        while (item := self._items.get()) is not None:
            yield item
            with suppress(RuntimeError):  # the loop is closed: nobody waits for a place any more
                self._loop.call_soon_threadsafe(self._places.release)

    async def feed(self, inputs: AsyncIterator[LiveInput], call: RunningCall[LiveEvent]) -> None:
        """Pass the inputs on. A failure of the inputs ends the call."""
        try:
            async for item in inputs:
                await self._places.acquire()
                self._items.put(item)
        except Exception:
            call.cancel()
            raise
        finally:
            self._items.put(None)

    async def end(self, feeding: asyncio.Task[None]) -> None:
        """Stop feeding; raises the error of the inputs."""
        if not feeding.done():
            feeding.cancel()
        await asyncio.wait([feeding])
        if not feeding.cancelled() and feeding.exception() is not None:
            await feeding
