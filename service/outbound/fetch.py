"""Fetch a clip from a URL that a request names, such as a presigned link to an object store.

Each redirect is checked like the first address. httpx is imported when the first clip is fetched.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.core.upload_rate import UploadRate
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.media.upload import Upload
from service.outbound.guard import HostGuard, Resolve
from service.outbound.tls import public_authorities

if TYPE_CHECKING:
    import httpx

_CONNECT_S = 10.0
_OK = 200
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be fetched.

    Attributes:
        hosts: as `HostGuard` takes them.
        max_bytes: of a file.
        min_bytes_per_s: as for uploads.
        max_redirects: each is checked like the first address.
        timeout_s: longest fetch.
    """

    hosts: frozenset[str] = frozenset()
    max_bytes: int = 256 * 1024**2
    min_bytes_per_s: int = 16_384
    max_redirects: int = 3
    timeout_s: float = 600.0


class Fetcher:
    """Fetches files into uploads.

    Args:
        policy: limits.
        clock: seconds, monotonic.
        resolve: returns the addresses of a name or raises OSError; None uses a `Resolver`.
    """

    def __init__(self, policy: FetchPolicy, *, clock: Clock, resolve: Resolve | None = None) -> None:
        self._policy = policy
        self._clock = clock
        self._guard = HostGuard(policy.hosts, option="url", setting="AVES_FETCH_HOSTS", resolve=resolve)

    async def __call__(self, url: str, upload: Upload, *, deadline: Deadline) -> None:
        """Write the file at a URL into an upload; the upload is not finished.

        Raises:
            ServiceError: `url_refused`, the URL is not allowed; `url_unreachable`, there is no file or no host;
                `upload_too_large`, `slow_upload`, `deadline_exceeded`, `storage_full`.
        """
        import httpx

        left_s = min(self._policy.timeout_s, deadline.remaining_s(self._clock))
        try:
            async with asyncio.timeout(left_s):
                await self._follow(url, upload)
        except TimeoutError:
            deadline.check(self._clock, stage="upload")
            raise ServiceError("slow_upload", f"url: the file did not come within {left_s:.0f} s.") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            raise self._guard.unreachable("its host cannot be reached") from None

    async def _follow(self, text: str, upload: Upload) -> None:
        import httpx

        url = self._guard.parse(text)
        async with httpx.AsyncClient(
            follow_redirects=False, trust_env=False, timeout=_CONNECT_S, verify=public_authorities()
        ) as client:
            for _ in range(self._policy.max_redirects + 1):
                headers = {"Accept-Encoding": "identity"}
                request = await self._guard.request(client, "GET", url, headers=headers)
                answer = await client.send(request, stream=True)
                try:
                    if answer.status_code not in _REDIRECTS:
                        await self._receive(answer, upload)
                        return
                    url = self._guard.parse(str(url.join(answer.headers.get("location", ""))))
                finally:
                    await answer.aclose()
        raise self._guard.unreachable(f"it redirects more than {self._policy.max_redirects} times")

    async def _receive(self, answer: httpx.Response, upload: Upload) -> None:
        if answer.status_code != _OK:
            raise self._guard.unreachable(f"its host answered {answer.status_code}")
        length = answer.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._policy.max_bytes:
            detail = f"url: the file has {length} bytes; the limit is {self._policy.max_bytes}."
            raise ServiceError("upload_too_large", detail)
        rate = UploadRate(self._policy.min_bytes_per_s, clock=self._clock)
        pieces = answer.aiter_raw()
        while True:
            try:
                async with asyncio.timeout(rate.timeout_s()):
                    piece = await anext(pieces, None)
            except TimeoutError:
                rate.check()
                raise ServiceError("slow_upload", "url: the file comes too slowly.") from None
            if piece is None:
                return
            rate.add(len(piece))
            await upload.write(piece)
