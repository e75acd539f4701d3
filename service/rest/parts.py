"""Parts of the core and the policy that the REST front receives from service.wiring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from service.core.admission import Admission
from service.core.api_keys import Authenticate
from service.core.overlay_file import DrawOverlay
from service.core.request_log import RequestLog, RequestRecord
from service.domain.caller import Caller
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.media.spool import Spool
from service.media.upload import Upload
from service.ports import Answering
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class RestPolicy:
    """Limits of the HTTP side. A reader's rate is measured over `stall_s` in which data waited for it."""

    max_upload_bytes: int
    max_answer_bytes: int
    request_timeout_s: float
    upload_min_bytes_per_s: int
    reader_min_bytes_per_s: int = 4096
    stall_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Probes:
    """Answers of the ops routes, of a front or of a worker.

    `unready` returns why new work cannot be accepted (None if it can), `is_alive` whether this process can still work
    at all, and `describe_version` the body of /version.
    """

    unready: Callable[[], ServiceError | None]
    is_alive: Callable[[], bool]
    describe_version: Callable[[], Awaitable[Mapping[str, object]]]
    metrics: Metrics


class FetchClip(Protocol):
    """Fetches the clip at a URL: `Fetcher`."""

    async def __call__(self, url: str, upload: Upload, *, deadline: Deadline) -> None:
        """Write the file into the upload; raises ServiceError."""
        ...


@dataclass(frozen=True, slots=True)
class RestParts:
    """The core as the routes use it.

    Requests with an idempotency key go to `idempotent_answering`; `authenticate` raises ServiceError `unauthenticated`.
    """

    policy: RestPolicy
    answering: Answering
    idempotent_answering: Answering
    admission: Admission
    request_log: RequestLog
    spool: Spool
    draw: DrawOverlay
    fetch: FetchClip
    clock: Clock
    authenticate: Authenticate
    probes: Probes

    def identify(self, scope: Scope, record: RequestRecord) -> Caller:
        """Return the caller and put it on record; raises `unauthenticated`."""
        client = scope.get("client")
        caller = self.authenticate(Headers(scope=scope).get("authorization"))
        record.caller = replace(caller, address=client[0] if client else "")
        return record.caller

    def recorded(self, scope: Scope) -> AbstractContextManager[RequestRecord]:
        """Record a whole request under its id, its caller's trace and the name of the route."""
        state = scope["state"]
        return self.request_log.record(
            request_id=state["request_id"],
            transport="rest",
            traceparent=state["traceparent"],
            operation=f"{scope['method']} {scope['route'].path.removeprefix('/v1')}",
        )
