"""The frame of every RPC: id, key, deadline, log line, errors as status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

from google.protobuf.message import Message
from grpc import aio
from grpc.aio import ServicerContext

from service.codec.protobuf import MAX_MESSAGE_BYTES
from service.core.api_keys import Authenticate
from service.core.request_log import RequestLog, RequestRecord
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.request import RequestContext, Transport, accept_request_id, accept_traceparent
from service.rpc.errors import status_code, trailers

Rpc: TypeAlias = "ServicerContext[Any, Any]"  # generic for the type checker only, hence the quotes
_M = TypeVar("_M")
_R = TypeVar("_R")
# Seconds (three years). gRPC reports "no deadline" as a very long one.
_HAS_DEADLINE_UNDER_S = 1e8


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC in progress."""

    context: RequestContext
    record: RequestRecord
    rpc: Rpc

    async def accept(self) -> None:
        """Send the initial metadata: the call is admitted and its upload is welcome.

        Clients that wait for it send nothing in vain; it corresponds to HTTP's 100 Continue.
        """
        with _leaving():
            await self.rpc.send_initial_metadata((("x-request-id", self.context.request_id),))


class Calls:
    """Runs the work of RPCs, for all methods."""

    def __init__(self, *, request_log: RequestLog, authenticate: Authenticate, clock: Clock) -> None:
        self._request_log = request_log
        self._authenticate = authenticate
        self._clock = clock

    async def run(self, rpc: Rpc, transport: Transport, work: Callable[[Call], Awaitable[_R]], *, method: str) -> _R:
        """Return the result of `work`. A documented failure aborts the RPC with its status, code and push-back."""
        metadata = dict(rpc.invocation_metadata() or ())
        request_id = accept_request_id(_text(metadata.get("x-request-id")))
        trace = accept_traceparent(_text(metadata.get("traceparent")))
        try:
            with self._request_log.record(
                request_id=request_id, transport=transport, traceparent=trace, operation=f"Segmentation/{method}"
            ) as record:
                caller = self._authenticate(_text(metadata.get("authorization")))
                record.caller = replace(caller, address=_address(rpc.peer()))
                context = RequestContext(
                    request_id=request_id,
                    transport=transport,
                    deadline=self._deadline(rpc),
                    may_use_cache=_text(metadata.get("cache-control")) != "no-cache",
                    started_at_s=self._clock(),
                    caller=record.caller,
                    traceparent=record.span.traceparent,
                )
                return await work(Call(context, record, rpc))
        except ServiceError as error:
            await _abort(rpc, error, request_id=request_id)
            raise AssertionError("abort raises") from error

    def _deadline(self, rpc: Rpc) -> Deadline:
        left_s = rpc.time_remaining()
        if left_s is None or left_s > _HAS_DEADLINE_UNDER_S:
            return Deadline()
        return Deadline.after(left_s, clock=self._clock)


async def read(requests: AsyncIterator[_M]) -> _M | None:
    """Return the next message; None at the end of the stream."""
    return await anext(requests, None)


async def write(rpc: Rpc, message: Message) -> None:
    """Send a message; waits while the client does not read. Raises `answer_too_large` over `MAX_MESSAGE_BYTES`."""
    if message.ByteSize() > MAX_MESSAGE_BYTES:
        detail = (
            f"The masks of one frame take over {MAX_MESSAGE_BYTES} bytes; ask for size=model or a higher threshold."
        )
        raise ServiceError("answer_too_large", detail)
    with _leaving():
        await rpc.write(message)


@contextmanager
def _leaving() -> Iterator[None]:
    """Convert the failure of gRPC core when a client disconnected a moment ago; the handler is cancelled next."""
    try:
        yield
    except aio.InternalError:
        raise ServiceError("client_gone", "The client disconnected before the answer was complete.") from None


async def _abort(rpc: Rpc, error: ServiceError, *, request_id: str) -> None:
    """End the RPC with the error's status. An RPC whose last message was never read can only be dropped."""
    try:
        await rpc.abort(status_code(error), error.detail, trailers(error, request_id=request_id))
    except aio.InternalError:
        raise asyncio.CancelledError from error


def _address(peer: str) -> str:
    """Return the address in gRPC's name of a peer, such as `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def _text(value: str | bytes | None) -> str | None:
    return value if isinstance(value, str) else None
