"""Tells a job's end to the address its caller gave: signed, three retries, no redirects, no private addresses.

A name is resolved here, once, and the connection goes to the address that was checked: a name that changes its mind
between check and use gains nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from service.codec.job_json import JobStatus
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job

logger = logging.getLogger(__name__)

TIMESTAMP_HEADER = "X-Avesformer-Timestamp"
SIGNATURE_HEADER = "X-Avesformer-Signature"
_MAX_URL_CHARS = 2048
Resolve = Callable[[str, int], Awaitable[list[str]]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """Which addresses may be told, and how long that may take.

    Attributes:
        private_hosts: names or addresses that are allowed although they are private.
        delays_s: waits before the three retries.
        timeout_s: of one try.
    """

    private_hosts: frozenset[str] = frozenset()
    delays_s: tuple[float, ...] = (1.0, 5.0, 25.0)
    timeout_s: float = 10.0


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of a name, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Webhooks:
    """Checks addresses and delivers.

    Args:
        policy: limits.
        wall_clock: seconds since 1970, part of what is signed.
        resolve: name to addresses.
        sleep: how retries wait.
    """

    def __init__(
        self,
        policy: WebhookPolicy,
        *,
        wall_clock: Clock,
        resolve: Resolve = resolve_host,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._policy = policy
        self._wall_clock = wall_clock
        self._resolve = resolve
        self._sleep = sleep

    async def check(self, url: str) -> None:
        """Raise `bad_option` for an address that is malformed, private or unknown."""
        await self._address_of(_parse(url))

    async def tell(self, job: Job) -> None:
        """Deliver a job's state; gives up, with a log line, after the last retry."""
        assert job.webhook is not None, "only jobs with a webhook are told"
        for delay_s in (*self._policy.delays_s, None):
            try:
                if await self._post(job, job.webhook):
                    return
            except (httpx.HTTPError, OSError, ServiceError) as error:
                logger.info("webhook failed", extra={"reason": type(error).__name__})
            if delay_s is not None:
                await self._sleep(delay_s)
        logger.warning("webhook given up", extra={"job_id": job.job_id})

    async def _post(self, job: Job, webhook: str) -> bool:
        """One try; whether it was taken (2xx)."""
        url = _parse(webhook)
        address = await self._address_of(url)
        body = JobStatus.of(job).encode()
        timestamp = str(int(self._wall_clock()))
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: sign(body, secret=job.webhook_secret or "", timestamp=timestamp),
        }
        async with (
            asyncio.timeout(self._policy.timeout_s),
            httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=self._policy.timeout_s) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers=headers,
                extensions={"sni_hostname": url.host},
            ) as answer,
        ):
            return answer.is_success

    async def _address_of(self, url: httpx.URL) -> str:
        """One address of the host, all of which must be allowed."""
        try:
            addresses = await self._resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        except OSError:
            raise _refused("its host is not known") from None
        if not addresses:
            raise _refused("its host is not known")
        if url.host not in self._policy.private_hosts:
            for address in addresses:
                if not _is_public(address) and address not in self._policy.private_hosts:
                    raise _refused("its host has a private address")
        return addresses[0]


def sign(body: bytes, *, secret: str, timestamp: str) -> str:
    """The signature header: `sha256=` and the HMAC of `timestamp.body`, in hex."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if inner is not None:
            parsed = inner
    return parsed.is_global and not parsed.is_multicast


def _parse(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError):
        raise _refused("it is not a URL") from None
    if len(text) > _MAX_URL_CHARS or url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise _refused("it must be http(s)://host/…, without a user name")
    return url


def _refused(reason: str) -> ServiceError:
    return ServiceError("bad_option", f"webhook: {reason}.")
