"""The REST clients. Answers are streamed (NDJSON), so a long clip has no size limit and shows its progress."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.client.answer import Answer, OnEvent, cut_off
from service.client.closing import AsyncClosedOnExit, ClosedOnExit
from service.client.failures import unreachable
from service.client.grpc_messages import read_blocks
from service.client.jobs import RemoteJob, checked, submit
from service.client.policy import ClientPolicy
from service.client.rest_messages import line_event, response_error
from service.client.retry import gather, gather_async, retried, retried_async
from service.domain.errors import ServiceError
from service.domain.option_table import to_fields
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent
from service.domain.result import Summary

# The server sends a heartbeat every 10 s, so a minute of silence means a dead connection.
_HEARTBEAT_GRACE_S = 60.0
_ROUTE = "/v1/segment"


class RestClient(ClosedOnExit):
    """Blocking client over HTTP."""

    def __init__(self, url: str, policy: ClientPolicy | None = None) -> None:
        self._policy = policy or ClientPolicy()
        self._url = url.rstrip("/")
        self._http = httpx.Client(verify=_verify(self._policy), timeout=_timeout(self._policy))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, on_event: OnEvent | None = None
    ) -> Answer:
        """Return the whole answer to a clip. Retryable errors are retried. Raises ServiceError."""
        return retried(lambda: gather(self.stream(source, options), on_event=on_event), self._policy)

    def stream(self, source: Path | bytes, options: SegmentOptions | None = None) -> Iterator[AnswerEvent]:
        """Yield the events of one attempt as they arrive. Raises ServiceError."""
        body = _Body(source, options or SegmentOptions(), self._policy)
        yield from self.read_lines(
            "POST", _ROUTE, content=read_blocks(source), params=body.params, headers=body.headers
        )

    def submit(
        self,
        source: Path | bytes,
        options: SegmentOptions | None = None,
        *,
        webhook: str | None = None,
        result_url: str | None = None,
        result_format: str | None = None,
        keep_clip: bool = False,
    ) -> RemoteJob:
        """Submit a clip as a job; what is retryable is tried again, without a second job. Raises ServiceError."""
        job_options = {"webhook": webhook, "result_url": result_url, "result_format": result_format}
        job_options["keep_clip"] = "true" if keep_clip else None
        return submit(
            self, source, options or SegmentOptions(), self._policy, blocks=read_blocks, job_options=job_options
        )

    def job(self, job_id: str) -> RemoteJob:
        """Return a job by its id; nothing is asked yet."""
        return RemoteJob(self, job_id, self._policy)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request below the service's address. Raises the ServiceError of any answer without success."""
        headers = {**_key_headers(self._policy), **options.pop("headers", {})}
        with _translated(self._url):
            return checked(self._http.request(method, self._url + path, headers=headers, **options))

    def read_lines(self, method: str, path: str, **options: Any) -> Iterator[AnswerEvent]:
        """Yield the events of an answer as lines. Raises ServiceError."""
        headers = {"Accept": "application/x-ndjson", **_key_headers(self._policy), **options.pop("headers", {})}
        with (
            _translated(self._url),
            self._http.stream(method, self._url + path, headers=headers, **options) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _error(response, response.read())
            lines = _Lines()
            for line in response.iter_lines():
                yield from lines.feed(line)
            lines.finish()


class AsyncRestClient(AsyncClosedOnExit):
    """Like RestClient, for asyncio."""

    def __init__(self, url: str, policy: ClientPolicy | None = None) -> None:
        self._policy = policy or ClientPolicy()
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(verify=_verify(self._policy), timeout=_timeout(self._policy))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def segment(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, on_event: OnEvent | None = None
    ) -> Answer:
        """Return the whole answer to a clip. Retryable errors are retried. Raises ServiceError."""
        return await retried_async(lambda: gather_async(self.stream(source, options), on_event=on_event), self._policy)

    async def stream(self, source: Path | bytes, options: SegmentOptions | None = None) -> AsyncIterator[AnswerEvent]:
        """Yield the events of one attempt as they arrive. Raises ServiceError."""
        body = _Body(source, options or SegmentOptions(), self._policy)
        with _translated(self._url):
            async with self._http.stream(
                "POST", self._url + _ROUTE, content=_async_blocks(source), params=body.params, headers=body.headers
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise _error(response, await response.aread())
                lines = _Lines()
                async for line in response.aiter_lines():
                    for event in lines.feed(line):
                        yield event
                lines.finish()


class _Body:
    """Query and headers of an upload."""

    def __init__(self, source: Path | bytes, options: SegmentOptions, policy: ClientPolicy) -> None:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        self.params = to_fields(options)
        self.headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Accept": "application/x-ndjson",
        }
        if policy.api_key is not None:
            self.headers["Authorization"] = f"Bearer {policy.api_key}"
        if policy.timeout_s is not None:
            self.headers["X-Request-Timeout"] = f"{policy.timeout_s:g}"


def _key_headers(policy: ClientPolicy) -> dict[str, str]:
    return {} if policy.api_key is None else {"Authorization": f"Bearer {policy.api_key}"}


class _Lines:
    """Events of an answer's lines, the last of which is the summary."""

    def __init__(self) -> None:
        self._is_over = False

    def feed(self, line: str) -> tuple[AnswerEvent, ...]:
        """Return the event of a line; none for an empty line, a heartbeat or a line of an unknown type."""
        event = line_event(line) if line else None
        if event is None:
            return ()
        self._is_over = isinstance(event, Summary)
        return (event,)

    def finish(self) -> None:
        """Raise the error of an answer that was cut off unless the summary came."""
        if not self._is_over:
            raise cut_off()


async def _async_blocks(source: Path | bytes) -> AsyncIterator[bytes]:
    for block in read_blocks(source):  # reading 256 KiB from the page cache is faster than a switch to a thread
        yield block


def _error(response: httpx.Response, body: bytes) -> ServiceError:
    return response_error(response.status_code, body, retry_after=response.headers.get("retry-after"))


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException:
        raise ServiceError("deadline_exceeded", f"{url} did not answer in time.") from None
    except (httpx.TransportError, httpx.InvalidURL):
        raise unreachable(url) from None


def _verify(policy: ClientPolicy) -> ssl.SSLContext | bool:
    return True if policy.ca_file is None else ssl.create_default_context(cafile=str(policy.ca_file))


def _timeout(policy: ClientPolicy) -> httpx.Timeout:
    read_s = _HEARTBEAT_GRACE_S + (policy.timeout_s or _HEARTBEAT_GRACE_S)
    return httpx.Timeout(read_s, connect=policy.connect_timeout_s)
