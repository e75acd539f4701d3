"""Fetch a clip from a URL that a request names, such as a presigned link to an object store.

A server that fetches what strangers name must not reach what only it can reach: hosts are on a list, every address is
checked and the connection goes to the checked address, also after a redirect. httpx is imported when the first clip is
fetched: it takes 0.1 s of the start and 8 MiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.core.upload_rate import UploadRate
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.media.upload import Upload
from service.outbound.addresses import MAX_URL_CHARS, Resolver, is_local_name, is_public, numeric_host, port_of

if TYPE_CHECKING:
    import httpx

Resolve = Callable[[str, int], Awaitable[list[str]]]
ANY_HOST = "*"
_HTTPS_PORT = 443
_CONNECT_S = 10.0
_OK = 200
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be fetched.

    Attributes:
        hosts: names of hosts, reached by https at port 443 and public addresses only; `*` stands for all; a whole
            origin such as `http://minio:9000` is reached as it stands, at private addresses too. Empty: nothing.
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
        self._resolve = resolve or Resolver()

    async def __call__(self, url: str, upload: Upload, *, deadline: Deadline) -> None:
        """Write the file at a URL into an upload; the upload is not finished.

        Raises:
            ServiceError: `bad_option`, the URL is not allowed; `missing_file`, there is no file; `upload_too_large`,
                `slow_upload`, `deadline_exceeded`, `storage_full`.
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
            raise ServiceError("missing_file", "url: its host cannot be reached.") from None

    async def _follow(self, text: str, upload: Upload) -> None:
        import httpx

        url = self._parsed(text)
        async with httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=_CONNECT_S) as client:
            for _ in range(self._policy.max_redirects + 1):
                address = await self._address_of(url)
                request = client.build_request(
                    "GET",
                    url.copy_with(host=address),
                    headers={"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"},
                    extensions={"sni_hostname": url.host},
                )
                answer = await client.send(request, stream=True)
                try:
                    if answer.status_code not in _REDIRECTS:
                        await self._receive(answer, upload)
                        return
                    url = self._parsed(str(url.join(answer.headers.get("location", ""))))
                finally:
                    await answer.aclose()
        raise ServiceError("missing_file", f"url: it redirects more than {self._policy.max_redirects} times.")

    async def _receive(self, answer: httpx.Response, upload: Upload) -> None:
        if answer.status_code != _OK:
            raise ServiceError("missing_file", f"url: its host answered {answer.status_code}.")
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

    def _parsed(self, text: str) -> httpx.URL:
        import httpx

        try:
            url = httpx.URL(text)
            name = url.raw_host.decode("ascii")
        except (httpx.InvalidURL, TypeError, ValueError):
            raise _refused("it is not a URL") from None
        if len(text) > MAX_URL_CHARS or url.scheme not in ("http", "https") or not name or url.userinfo:
            raise _refused("it must be https://host/…, without a user name")
        if not self._policy.hosts:
            raise _refused("this server fetches nothing; send the file")
        if _origin(url) in self._policy.hosts:
            return url
        if url.scheme != "https" or port_of(url) != _HTTPS_PORT:
            raise _refused("it must be https at port 443")
        if url.host not in self._policy.hosts and ANY_HOST not in self._policy.hosts:
            raise _refused("its host is not on this server's list (AVES_FETCH_HOSTS)")
        if is_local_name(url.host):
            raise _refused("its host is a local name")
        return url

    async def _address_of(self, url: httpx.URL) -> str:
        """Resolve the host and return one address; every address must be allowed."""
        literal = numeric_host(url.host)
        try:
            addresses = [literal] if literal is not None else await self._resolve(url.host, port_of(url))
        except OSError:
            addresses = []
        if not addresses:
            raise _refused("its host is not known")
        if _origin(url) not in self._policy.hosts and not all(is_public(address) for address in addresses):
            raise _refused("its host has a private address")
        return addresses[0]


def _origin(url: httpx.URL) -> str:
    """Return scheme, host and port, the port only where the URL names it."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _refused(reason: str) -> ServiceError:
    return ServiceError("bad_option", f"url: {reason}.")
