"""Jobs over REST: submit a clip, wait for its end, read the answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx

from service.client.answer import Answer, OnEvent
from service.client.failures import error_of
from service.client.policy import ClientPolicy
from service.client.rest_messages import response_error
from service.client.retry import gather, retried
from service.codec.job_json import JobStatus
from service.domain.errors import ServiceError
from service.domain.option_table import to_fields
from service.domain.options import SegmentOptions

if TYPE_CHECKING:
    from service.client.rest import RestClient

# Seconds between two looks at a job.
_POLL_S = 0.5
_R = TypeVar("_R")
_ENDED = ("done", "failed", "cancelled")


class RemoteJob:
    """A job of a service. Every call is tried again as the client's policy says."""

    def __init__(self, client: RestClient, job_id: str, policy: ClientPolicy) -> None:
        self._client = client
        self._policy = policy
        self.job_id = job_id

    @property
    def path(self) -> str:
        """Path of the job under the service's address."""
        return f"/v1/jobs/{self.job_id}"

    def status(self) -> JobStatus:
        """Return state, progress and times. Raises ServiceError, such as `job_not_found`, `job_expired`."""
        return self._retried(lambda: JobStatus.decode(self._client.request("GET", self.path).content))

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """Wait for the end of the job; returns its last status.

        Raises:
            ServiceError: `deadline_exceeded` after `timeout_s`; the job goes on.
        """
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (status := self.status()).state not in _ENDED:
            if end_s is not None and time.monotonic() >= end_s:
                raise ServiceError("deadline_exceeded", f"The job did not end within {timeout_s:g} s.")
            time.sleep(_POLL_S)
        return status

    def result(self, *, on_event: OnEvent | None = None) -> Answer:
        """Return the answer of a job that is done. Raises its own ServiceError if it failed, `job_not_ready` before."""
        return self._retried(lambda: gather(self._client.read_lines("GET", f"{self.path}/result"), on_event=on_event))

    def download(self, name: str) -> bytes:
        """Return the result in a format of the service, such as `coco` or `png`."""
        query = {"format": name}
        return self._retried(lambda: self._client.request("GET", f"{self.path}/result", params=query).content)

    def cancel(self) -> None:
        """Cancel the job and erase everything that is kept of it."""
        self._retried(lambda: self._client.request("DELETE", self.path))

    def _retried(self, work: Callable[[], _R]) -> _R:
        return retried(work, self._policy)


def submit(
    client: RestClient,
    source: Path | bytes,
    options: SegmentOptions,
    policy: ClientPolicy,
    *,
    blocks: Callable[[Path | bytes], Iterator[bytes]],
    job_options: dict[str, str | None],
) -> RemoteJob:
    """Submit a clip; a retry with the same idempotency key does not make a second job."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Idempotency-Key": uuid.uuid4().hex,
    }
    params = {**to_fields(options), **{name: value for name, value in job_options.items() if value is not None}}

    def send() -> RemoteJob:
        response = client.request("POST", "/v1/jobs", params=params, headers=headers, content=blocks(source))
        return RemoteJob(client, response.json()["job_id"], policy)

    return retried(send, policy)


def checked(response: httpx.Response) -> httpx.Response:
    """Return a response with success; raises the ServiceError of any other."""
    if response.is_success:
        return response
    if response.has_redirect_location:
        raise error_of(None, "The server redirects; give the address that it names.", http_status=response.status_code)
    raise response_error(response.status_code, response.content, retry_after=response.headers.get("retry-after"))
