"""Put a file to a URL that a request names, such as a presigned link to an object store: one attempt."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.domain.errors import ServiceError
from service.outbound.guard import HostGuard, Resolve
from service.outbound.tls import public_authorities

if TYPE_CHECKING:
    import httpx

_CONNECT_S = 10.0
# Longest wait, in seconds, for the host to take a block or to answer after the last one.
_SILENCE_S = 60.0
_PASSING_STATUSES = (408, 425, 429)
_FIRST_SERVER_ERROR = 500


class PutError(Exception):
    """The file was not taken. The message is safe to show; `may_retry` says whether another attempt can help."""

    def __init__(self, detail: str, *, may_retry: bool) -> None:
        super().__init__(detail)
        self.may_retry = may_retry


@dataclass(frozen=True, slots=True)
class PutPolicy:
    """Where files may be put.

    Attributes:
        hosts: as `HostGuard` takes them.
        timeout_s: longest attempt.
        tls: certificates that hosts are checked against; None uses those of certifi.
    """

    hosts: frozenset[str] = frozenset()
    timeout_s: float = 600.0
    tls: ssl.SSLContext | None = None


class Putter:
    """Puts files to URLs of the option `result_url`. Redirects are not followed.

    Args:
        policy: limits.
        resolve: returns the addresses of a name or raises OSError; None uses a `Resolver`.
    """

    def __init__(self, policy: PutPolicy, *, resolve: Resolve | None = None) -> None:
        self._policy = policy
        self._guard = HostGuard(policy.hosts, option="result_url", setting="AVES_RESULT_HOSTS", resolve=resolve)

    def check(self, url: str) -> None:
        """Raise `url_refused` for a URL that can be refused without DNS."""
        self._guard.parse(url)

    async def put(self, url: str, blocks: AsyncIterator[bytes], *, num_bytes: int, media_type: str) -> None:
        """Send a file once.

        Args:
            url: where to.
            blocks: the file.
            num_bytes: of the file; sent as `Content-Length`, which object stores require.
            media_type: sent as `Content-Type`.

        Raises:
            PutError: the file was not taken.
        """
        import httpx

        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        verify = public_authorities() if self._policy.tls is None else self._policy.tls
        headers = {"Content-Type": media_type, "Content-Length": str(num_bytes)}
        try:
            async with (
                asyncio.timeout(self._policy.timeout_s),
                httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=timeout, verify=verify) as client,
            ):
                parsed = self._guard.parse(url)
                request = await self._guard.request(client, "PUT", parsed, headers=headers, content=blocks)
                answer = await client.send(request, stream=True)
                await answer.aclose()
        except ServiceError as error:
            raise PutError(error.detail, may_retry=error.code == "url_unreachable") from None
        except TimeoutError:
            raise PutError(
                f"its host did not take the file within {self._policy.timeout_s:.0f} s", may_retry=True
            ) from None
        except (httpx.HTTPError, OSError):
            raise PutError("its host cannot be reached or closed the connection", may_retry=True) from None
        _check_status(answer)


def _check_status(answer: httpx.Response) -> None:
    if not answer.is_success:
        status = answer.status_code
        may_retry = status in _PASSING_STATUSES or status >= _FIRST_SERVER_ERROR
        raise PutError(f"its host answered {status}", may_retry=may_retry)
