"""Facts of a request that a reverse proxy changes: the path prefix and the client's address."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True, slots=True)
class ProxyPolicy:
    """How clients reach the service.

    Attributes:
        root_path: path prefix of a proxy, whether the proxy strips it or not; empty for none.
        trusted: networks of proxies whose `X-Forwarded-Prefix` and `X-Forwarded-For` are used.
    """

    root_path: str = ""
    trusted: tuple[_Network, ...] = ()

    def trusts(self, host: str) -> bool:
        """Return whether an address belongs to a trusted proxy."""
        address = _address(host)
        return address is not None and any(address in network for network in self.trusted)


def proxy_policy(root_path: str, trusted: Iterable[str]) -> ProxyPolicy:
    """Return the policy of checked settings."""
    networks = tuple(ipaddress.ip_network(text.strip()) for text in trusted if text.strip())
    return ProxyPolicy(root_path.rstrip("/"), networks)


class BehindProxy:
    """ASGI middleware that applies a ProxyPolicy to each request.

    It sets `root_path` and `client` of the scope, and serves `/path/` like `/path`, without a redirect: a redirect
    would make the client send its upload twice.
    """

    def __init__(self, app: ASGIApp, policy: ProxyPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] in ("http", "websocket"):
            prefix, client = self._policy.root_path, scope.get("client")
            if self._policy.trusted and client is not None and self._policy.trusts(client[0]):
                headers = Headers(scope=scope)
                prefix = _forwarded_prefix(headers) or prefix
                scope["client"] = (self._forwarded_client(headers, client[0]), client[1])
            path = scope["path"]
            if prefix and (path == prefix or path.startswith(f"{prefix}/")):
                path = path[len(prefix) :]
            scope["root_path"] = prefix
            scope["path"] = prefix + (path.rstrip("/") or "/")
        await self._app(scope, receive, send)

    def _forwarded_client(self, headers: Headers, peer: str) -> str:
        """Return the nearest address that is not a trusted proxy."""
        hops = [hop.strip() for value in headers.getlist("x-forwarded-for") for hop in value.split(",")]
        for hop in reversed(hops):
            if _address(hop) is None:
                break
            peer = hop
            if not self._policy.trusts(hop):
                break
        return peer


def _forwarded_prefix(headers: Headers) -> str:
    given = headers.get("x-forwarded-prefix", "").strip().rstrip("/")
    return given if _PREFIX.fullmatch(given) else ""


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
