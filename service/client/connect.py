"""Open a client for a URL: http://, https://, grpc:// or grpcs://."""

from __future__ import annotations

from urllib.parse import urlsplit

from service.client.grpc_async import AsyncGrpcClient
from service.client.grpc_client import GrpcClient
from service.client.policy import ClientPolicy
from service.client.rest import AsyncRestClient, RestClient
from service.domain.errors import ServiceError

_GRPC_PORT = 50051


def open_client(url: str, policy: ClientPolicy | None = None) -> RestClient | GrpcClient:
    """Return a blocking client, to be used with `with`; raises `bad_option` for a URL of another kind."""
    scheme, target = _parse(url)
    if scheme in ("http", "https"):
        return RestClient(url, policy)
    return GrpcClient(target, policy, is_secure=scheme == "grpcs")


def open_async_client(url: str, policy: ClientPolicy | None = None) -> AsyncRestClient | AsyncGrpcClient:
    """Return a client for asyncio, to be used with `async with`; raises `bad_option` for a URL of another kind."""
    scheme, target = _parse(url)
    if scheme in ("http", "https"):
        return AsyncRestClient(url, policy)
    return AsyncGrpcClient(target, policy, is_secure=scheme == "grpcs")


def _parse(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _GRPC_PORT
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise ServiceError(
            "bad_option", f"{url[:200]!r} is not an address; give http://, https://, grpc:// or grpcs://."
        )
    return parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
