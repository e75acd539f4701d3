"""Send a signed webhook when a job ends: three retries, no redirects, no private addresses.

A name is resolved once per attempt and the connection goes to the address that was checked, which prevents DNS
rebinding. httpx is imported when the first webhook is used: it takes 0.1 s of the start and 8 MiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.codec.job_json import JobEvents, JobStatus
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.outbound.addresses import (
    PUBLIC_PORTS,
    Resolver,
    is_local_name,
    is_public,
    numeric_host,
    parse_webhook,
    port_of,
    refused,
)
from service.outbound.tls import public_authorities

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

TIMESTAMP_HEADER = "X-Avesformer-Timestamp"
SIGNATURE_HEADER = "X-Avesformer-Signature"
Resolve = Callable[[str, int], Awaitable[list[str]]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """Allowed addresses, retries and timeout.

    Attributes:
        private_hosts: private names or addresses that are allowed.
        delays_s: delays before each of the retries.
        timeout_s: timeout of one attempt.
    """

    private_hosts: frozenset[str] = frozenset()
    delays_s: tuple[float, ...] = (1.0, 5.0, 25.0)
    timeout_s: float = 10.0


class Webhooks:
    """Checks addresses and delivers. `events_of`, set after construction, adds a finished job's events to the body.

    Args:
        policy: limits.
        wall_clock: seconds since 1970; the time is part of the signed text.
        resolve: returns the addresses of a name or raises OSError; None uses a `Resolver`.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        policy: WebhookPolicy,
        *,
        wall_clock: Clock,
        resolve: Resolve | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._policy = policy
        self._wall_clock = wall_clock
        self._resolve = resolve or Resolver()
        self._sleep = sleep
        self.events_of: Callable[[Job], Awaitable[JobEvents]] | None = None

    def check(self, url: str) -> None:
        """Raise `bad_option` for a URL that can be refused without DNS.

        A name is resolved only at delivery, where each address is checked: a resolver that does not answer must not
        delay the request that submits a job.
        """
        parsed = parse_webhook(url)
        if parsed.host in self._policy.private_hosts:
            return
        address = numeric_host(parsed.host)
        if address is not None:
            self._check_address(parsed, address)
        elif is_local_name(parsed.host):
            raise refused("its host is a local name")
        elif not self._policy.private_hosts:
            self._check_port(parsed)

    async def deliver(self, job: Job) -> None:
        """Send the state of a job. Logs a warning if the last attempt fails; does not raise."""
        import httpx

        assert job.webhook is not None, "the job has no webhook"
        for delay_s in (*self._policy.delays_s, None):
            try:
                if await self._post(job, job.webhook):
                    return
            except (httpx.HTTPError, OSError, ServiceError) as error:
                logger.info("webhook failed", extra={"reason": type(error).__name__})
            if delay_s is not None:
                await self._sleep(delay_s)
        logger.warning("webhook could not be delivered", extra={"job_id": job.job_id})

    async def _post(self, job: Job, webhook: str) -> bool:
        """Make one attempt. Return whether the status was 2xx."""
        import httpx

        url = parse_webhook(webhook)
        address = await self._address_of(url)
        events = None
        if job.state == "done" and self.events_of is not None:
            events = await self.events_of(job)
        body = JobStatus.of(job, events=events).encode()
        timestamp = str(int(self._wall_clock()))
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: sign(body, secret=job.webhook_secret or "", timestamp=timestamp),
        }
        async with (
            asyncio.timeout(self._policy.timeout_s),
            httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                timeout=self._policy.timeout_s,
                verify=public_authorities(),
            ) as client,
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
        """Resolve the host and return one address; every address must be allowed."""
        try:
            addresses = await self._resolve(url.host, port_of(url))
        except OSError:
            raise refused("its host is not known") from None
        if not addresses:
            raise refused("its host is not known")
        for address in addresses:
            self._check_address(url, address)
        return addresses[0]

    def _check_address(self, url: httpx.URL, address: str) -> None:
        if self._policy.private_hosts & {url.host, address}:
            return
        if not is_public(address):
            raise refused("its host has a private address")
        self._check_port(url)

    def _check_port(self, url: httpx.URL) -> None:
        if port_of(url) not in PUBLIC_PORTS:
            raise refused(f"its port must be one of {', '.join(map(str, sorted(PUBLIC_PORTS)))}")


def sign(body: bytes, *, secret: str, timestamp: str) -> str:
    """Return the signature header: `sha256=` and the hex HMAC-SHA256 of `timestamp.body`."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"
