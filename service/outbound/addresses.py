"""Rules for addresses that requests name, and name resolution with a deadline of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.domain.errors import ServiceError

if TYPE_CHECKING:
    import httpx

# Longest name resolution, in seconds, including the wait for a free thread. Stub resolvers retry for 10 s and longer.
RESOLVE_TIMEOUT_S = 2.0
# Threads that resolve names at once. Only outbound connections use them, so a silent resolver delays nothing else.
MAX_RESOLVING = 16
# Ports allowed at public addresses; a host of AVES_WEBHOOK_HOSTS may have any.
PUBLIC_PORTS = frozenset({80, 443, 8080, 8443})
MAX_URL_CHARS = 2048

_IPv4 = ipaddress.IPv4Address
_IPv6 = ipaddress.IPv6Address
# Public addresses that are served inside a cloud: Azure's wire server and the retired 6to4 relay (RFC 7526).
_REFUSED_V4 = tuple(map(ipaddress.IPv4Network, ("168.63.129.16/32", "192.88.99.0/24", "192.0.0.0/24")))
# Site-local (RFC 3879), local NAT64 (RFC 8215), discard (RFC 6666), ORCHID (RFC 4843, 7343), SRv6 (RFC 9602).
_REFUSED_V6 = tuple(
    map(ipaddress.IPv6Network, ("fec0::/10", "64:ff9b:1::/48", "100::/63", "2001:10::/28", "2001:20::/28", "5f00::/16"))
)
# Prefixes whose last 32 bits are an IPv4 address: IPv4-compatible and IPv4-mapped (RFC 4291), IPv4-translated
# (RFC 7915), NAT64 (RFC 6052).
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
# Interface identifiers of ISATAP (RFC 5214), with the universal bit clear or set.
_ISATAP = (0x00005EFE, 0x02005EFE)
# A host name as DNS can carry it (RFC 1035 plus underscores), or an IPv6 address.
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
# Names that mean this machine or this network wherever they are resolved (RFC 6761, 6762, 8375 and ICANN's `internal`).
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa", "localdomain")


def is_public(address: str) -> bool:
    """Return whether a numeric address is a public unicast address. Embedded IPv4 addresses are checked too."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, _IPv6):
        if any(parsed in network for network in _REFUSED_V6):
            return False
        inner = _embedded(parsed)
        if inner is None:
            return parsed.is_global and not parsed.is_multicast
        parsed = inner
    return parsed.is_global and not parsed.is_multicast and not any(parsed in network for network in _REFUSED_V4)


def _embedded(address: _IPv6) -> _IPv4 | None:
    low = int(address) & 0xFFFFFFFF
    if any(address in network for network in _EMBEDDING) or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return _IPv4(low)
    return address.sixtofour or (address.teredo or (None, None))[1]


def parse_webhook(text: str) -> httpx.URL:
    """Parse a webhook's URL; raises `bad_option` unless it is http(s) with a host that DNS can encode."""
    import httpx

    try:
        url = httpx.URL(text)
        name = url.raw_host.decode("ascii")
        is_encodable = bool(_HOST.fullmatch(name)) and bool(url.host)
        if ":" not in name:
            name.rstrip(".").encode("idna")
    except (httpx.InvalidURL, TypeError, ValueError):  # UnicodeError is a ValueError
        raise refused("it is not a URL whose host can be looked up") from None
    if len(text) > MAX_URL_CHARS or url.scheme not in ("http", "https") or not name or url.userinfo:
        raise refused("it must be http(s)://host/…, without a user name")
    if not is_encodable or url.port == 0:
        raise refused("it is not a URL whose host can be looked up")
    return url


def port_of(url: httpx.URL) -> int:
    """Return the port that a URL names or implies."""
    return url.port or (443 if url.scheme == "https" else 80)


def numeric_host(host: str) -> str | None:
    """Return the address that a host denotes without DNS, including `127.1` and `0x7f000001`; None for a name."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None


def is_local_name(host: str) -> bool:
    """Return whether a name is local by definition."""
    name = host.rstrip(".").lower()
    return any(name == local or name.endswith("." + local) for local in _LOCAL_NAMES)


def refused(reason: str) -> ServiceError:
    """Return the `bad_option` error of a webhook that is refused."""
    return ServiceError("bad_option", f"webhook: {reason}.")


class Resolver:
    """Resolves names on threads of its own: at most `max_resolving` at once, each call within `timeout_s`.

    A thread whose resolver stays silent is abandoned at the deadline and keeps its slot until the system's resolver
    gives up. The threads are daemons, so they do not delay the end of the process.

    Args:
        timeout_s: deadline of a call in seconds, including the wait for a slot.
        max_resolving: slots.
        look_up: blocking look-up of (host, port), which may raise OSError.
    """

    def __init__(
        self,
        *,
        timeout_s: float = RESOLVE_TIMEOUT_S,
        max_resolving: int = MAX_RESOLVING,
        look_up: Callable[[str, int], list[str]] | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(max_resolving)
        self._look_up = look_up or _look_up

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name. Raises OSError; its subclass TimeoutError after `timeout_s`."""
        async with asyncio.timeout(self._timeout_s):
            await self._slots.acquire()
            loop = asyncio.get_running_loop()
            found: asyncio.Future[list[str]] = loop.create_future()

            def settle(addresses: list[str], error: BaseException | None) -> None:
                self._slots.release()
                if not found.done():
                    found.set_result(addresses) if error is None else found.set_exception(error)

            def work() -> None:
                addresses: list[str] = []
                failure: OSError | None = None
                try:
                    addresses = self._look_up(host, port)
                except OSError as error:
                    failure = error
                except Exception as error:
                    failure = OSError(f"the look-up failed: {type(error).__name__}")
                if not loop.is_closed():
                    loop.call_soon_threadsafe(settle, addresses, failure)

            threading.Thread(target=work, name="resolver", daemon=True).start()
            return await found


def _look_up(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
