"""Check URLs that requests name before the service connects: a list of hosts, and public addresses only.

A server that connects to what strangers name must not reach what only it can reach. A name is resolved once per
connection and the connection goes to the address that was checked, which prevents DNS rebinding. httpx is imported
when the first URL is checked: it takes 0.1 s of the start and 8 MiB.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from service.domain.errors import ServiceError
from service.outbound.addresses import MAX_URL_CHARS, Resolver, is_local_name, is_public, numeric_host, port_of

if TYPE_CHECKING:
    import httpx

Resolve = Callable[[str, int], Awaitable[list[str]]]
ANY_HOST = "*"
_HTTPS_PORT = 443


class HostGuard:
    """Checks URLs of one option against one list of hosts.

    Args:
        hosts: names of hosts, reached by https at port 443 and public addresses only; `*` stands for all; a whole
            origin such as `http://minio:9000` is reached as it stands, at private addresses too. Empty: nothing.
        option: the option that the URL comes from, for errors.
        setting: the setting that lists the hosts, for errors.
        resolve: returns the addresses of a name or raises OSError; None uses a `Resolver`.
    """

    def __init__(self, hosts: frozenset[str], *, option: str, setting: str, resolve: Resolve | None = None) -> None:
        self._hosts = hosts
        self._option = option
        self._setting = setting
        self._resolve = resolve or Resolver()

    def parse(self, text: str) -> httpx.URL:
        """Parse a URL. Raises `url_refused` for one that can be refused without DNS."""
        import httpx

        try:
            url = httpx.URL(text)
            name = url.raw_host.decode("ascii")
        except (httpx.InvalidURL, TypeError, ValueError):
            raise self.refused("it is not a URL") from None
        if len(text) > MAX_URL_CHARS or url.scheme not in ("http", "https") or not name or url.userinfo:
            raise self.refused("it must be https://host/…, without a user name")
        if not self._hosts:
            raise self.refused(f"this server connects to no such address ({self._setting} is empty)")
        if _origin(url) in self._hosts:
            return url
        if url.scheme != "https" or port_of(url) != _HTTPS_PORT:
            raise self.refused("it must be https at port 443")
        if url.host not in self._hosts and ANY_HOST not in self._hosts:
            raise self.refused(f"its host is not on this server's list ({self._setting})")
        literal = numeric_host(url.host)
        if is_local_name(url.host):
            raise self.refused("its host is a local name")
        if literal is not None and not is_public(literal):
            raise self.refused("its host has a private address")
        return url

    async def request(self, client: httpx.AsyncClient, method: str, url: httpx.URL, **options: Any) -> httpx.Request:
        """Return a request to a checked address of a parsed URL, with the URL's own name in `Host` and TLS.

        Raises:
            ServiceError: `url_refused`, an address is private; `url_unreachable`, the name is not known.
        """
        address = await self._address_of(url)
        headers = {"Host": url.netloc.decode("ascii"), **options.pop("headers", {})}
        extensions = {"sni_hostname": url.host}
        return client.build_request(
            method, url.copy_with(host=address), headers=headers, extensions=extensions, **options
        )

    async def _address_of(self, url: httpx.URL) -> str:
        """Resolve the host and return one address; every address must be allowed."""
        literal = numeric_host(url.host)
        try:
            addresses = [literal] if literal is not None else await self._resolve(url.host, port_of(url))
        except OSError:
            addresses = []
        if not addresses:
            raise self.unreachable("its host is not known")
        if _origin(url) not in self._hosts and not all(is_public(address) for address in addresses):
            raise self.refused("its host has a private address")
        return addresses[0]

    def refused(self, reason: str) -> ServiceError:
        """Return the error of a URL that is not allowed."""
        return ServiceError("url_refused", f"{self._option}: {reason}.")

    def unreachable(self, reason: str) -> ServiceError:
        """Return the error of a URL that does not answer as it should."""
        return ServiceError("url_unreachable", f"{self._option}: {reason}.")


def _origin(url: httpx.URL) -> str:
    """Return scheme, host and port, the port only where the URL names it."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"
