"""Idempotency keys: a repeated request returns the first answer, from any front.

A key's scope is caller, key, route and options; its fingerprint is the hash of the upload. Server errors (5xx), 429 and
aborted requests are not stored, so they can be retried.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.aio.tasks import end_tasks
from service.aio.turns import Turns
from service.aio.waits import bounded_wait
from service.codec.answer_json import decode_stored, encode_line
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.domain.errors import CODES, Kind, ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.media.spool import Spool
from service.media.spool_file import SpoolFile
from service.media.upload import Upload
from service.ports import Answering, KeyRecord, KeyStore
from service.storage.blobs import Blobs

logger = logging.getLogger(__name__)

# Seconds after which a key whose process crashed can be used again.
LEASE_S = 30.0
# Blob prefix of stored answers.
ANSWERS = "answers"
MAX_KEY_CHARS = 255
_FORGOTTEN = frozenset(
    {
        Kind.OVERLOADED,
        Kind.CANCELLED,
        Kind.INTERNAL,
        Kind.UNAVAILABLE,
        Kind.DEADLINE_EXCEEDED,
        Kind.STORAGE_FULL,
        Kind.UPLOAD_TIMEOUT,
    }
)


@dataclass(slots=True)
class KeyUse:
    """Key of a running request. If `reply` is set, it is stored when the request ends."""

    scope: str
    fingerprint: str
    first_reply: bytes | None = None
    reply: bytes | None = None


class Idempotency:
    """Acquires keys for running requests and stores their replies.

    Args:
        keys: stores the keys.
        ttl_s: seconds for which replies are stored.
    """

    def __init__(self, keys: KeyStore, *, ttl_s: float) -> None:
        self._keys = keys
        self._ttl_s = ttl_s

    @asynccontextmanager
    async def use(self, scope: str, fingerprint: str) -> AsyncIterator[KeyUse]:
        """Acquire a key for the body. If the body sets no reply, the key is released.

        Raises:
            ServiceError: `idempotency_mismatch` (used with another upload), `idempotency_in_progress`.
        """
        found = await self._keys.begin(scope, fingerprint, lease_s=LEASE_S)
        use = KeyUse(scope, fingerprint)
        if found is not None:
            _check(found, fingerprint)
            use.first_reply = found.reply
            yield use
            return
        renewal = asyncio.create_task(self._renew_periodically(scope))
        try:
            yield use
        finally:
            await end_tasks([renewal])
            await self._end(use)

    async def _end(self, use: KeyUse) -> None:
        try:
            if use.reply is None:
                await self._keys.forget(use.scope)
            else:
                await self._keys.finish(use.scope, KeyRecord(use.fingerprint, use.reply), ttl_s=self._ttl_s)
        except ServiceError:
            logger.warning("an idempotency key could not be stored")

    async def _renew_periodically(self, scope: str) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await self._keys.renew(scope, lease_s=LEASE_S)
            except ServiceError:
                continue


def _check(found: KeyRecord, fingerprint: str) -> None:
    if found.fingerprint != fingerprint:
        detail = "This Idempotency-Key was used with another upload; use a new key for a new request."
        raise ServiceError("idempotency_mismatch", detail)
    if found.reply is None:
        detail = "The first request with this Idempotency-Key is still running; ask again later."
        raise ServiceError("idempotency_in_progress", detail, retry_after_s=2.0)


def key_scope(context: RequestContext, *, route: str, options: SegmentOptions, extra: str = "") -> str:
    """Return the hashed scope of the request's key. Raises `bad_option` for a key that is too long or not printable."""
    key = context.idempotency_key or ""
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isprintable():
        raise ServiceError("bad_option", f"Idempotency-Key: must have 1 to {MAX_KEY_CHARS} printable characters.")
    return hashlib.sha256(json.dumps([context.owner, key, route, repr(options), extra]).encode()).hexdigest()


class IdempotentAnswering:
    """`Answering` for requests with an idempotency key whose upload is complete.

    Args:
        inner: computes answers of new requests.
        idempotency: the keys.
        blobs: stores the answers.
        spool: room for answers that are being recorded. An answer that does not fit is not stored; a repeated request
            is then computed again.
        turns: turns of readers of stored answers.
        clock: seconds, monotonic.
    """

    def __init__(
        self, inner: Answering, idempotency: Idempotency, blobs: Blobs, spool: Spool, *, turns: Turns, clock: Clock
    ) -> None:
        self._inner = inner
        self._idempotency = idempotency
        self._blobs = blobs
        self._spool = spool
        self._turns = turns
        self._clock = clock

    async def check(self, options: SegmentOptions) -> None:
        """Raise a ServiceError if the options cannot be served, before the upload is read."""
        await self._inner.check(options)

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the stored answer of the key, or compute and store a new one."""
        scope = key_scope(context, route="segment", options=options)
        async with AsyncExitStack() as holding:
            async with bounded_wait(
                context.deadline.timeout_s(self._clock),
                partial(deadline_exceeded, "the look-up of the Idempotency-Key"),
            ):
                use = await holding.enter_async_context(self._idempotency.use(scope, upload.sha256))
            if use.first_reply is not None:
                upload.drop()
                answer = self._first(scope, use.first_reply)
            else:
                answer = self._remembered(upload, options, context, use)
            async with aclosing(answer) as events:
                async for event in events:
                    yield event

    async def _first(self, scope: str, reply: bytes) -> AsyncGenerator[AnswerEvent, None]:
        stored: dict[str, Any] = json.loads(reply)
        if stored.get("code") in CODES:
            raise ServiceError(stored["code"], str(stored["detail"]))
        cut = b""
        async for piece in self._blobs.read(f"{ANSWERS}/{scope}"):
            whole, end, cut = (cut + piece).rpartition(b"\n")
            async for event in self._turns.paced(decode_stored(whole + end)):
                yield event

    async def _remembered(
        self, upload: Upload, options: SegmentOptions, context: RequestContext, use: KeyUse
    ) -> AsyncGenerator[AnswerEvent, None]:
        with self._spool.open_answer(max_bytes=self._spool.max_bytes, party=context.caller.party) as file:
            try:
                async with aclosing(self._inner.answer(upload, options, context)) as events:
                    async for event in events:
                        self._note(event, file)
                        yield event
            except ServiceError as error:
                if error.kind not in _FORGOTTEN:
                    use.reply = json.dumps({"code": error.code, "detail": error.detail}).encode()
                raise
            await self._store(use, file, context.deadline)

    def _note(self, event: AnswerEvent, file: SpoolFile) -> None:
        """Append a line to the file. Empty the file if the answer does not fit."""
        is_first = isinstance(event, ClipStarted)
        if not is_first and not file.size:
            return
        try:
            file.write(encode_line(event))
        except ServiceError:
            logger.warning("an answer could not be stored for its idempotency key")
            file.clear()

    async def _store(self, use: KeyUse, file: SpoolFile, deadline: Deadline) -> None:
        """Store the recorded answer. The caller has received it already, so a failure is only logged."""
        num_bytes = file.size
        if not num_bytes:
            return
        try:
            async with bounded_wait(deadline.timeout_s(self._clock), partial(deadline_exceeded, "storing the answer")):
                await self._blobs.put_file(f"{ANSWERS}/{use.scope}", file.fileno(), num_bytes=num_bytes)
            use.reply = b"{}"
        except (ServiceError, OSError):
            logger.warning("an answer could not be stored for its idempotency key")
