"""Refusals of a connection: which heads are refused before any route, and the responses that say so."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.domain.errors import ServiceError
from service.domain.request import accept_request_id
from service.rest.errors import Problem, send_problem

# RFC 3986, 3.2.2: reg-name, IPv4 and bracketed IPv6 addresses, with an optional port. May be empty.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")


def host_error(headers: Iterable[tuple[bytes, bytes]], *, version: str) -> ServiceError | None:
    """Return the error of a head without exactly one valid Host header (RFC 9112, 3.2); HTTP/1.0 needs none.

    Args:
        headers: names in lower case, and values.
        version: `1.0` or `1.1`.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return ServiceError("malformed_body", f"The request has {len(hosts)} Host headers; send one.")
    if hosts and not _HOST.fullmatch(hosts[0].strip()):
        return ServiceError("malformed_body", "The Host header is not a name or address with an optional port.")
    return None


def too_many_connections(limit: int) -> ServiceError:
    """Return the error of a connection over the limit."""
    return ServiceError("too_many_requests", f"All {limit} connections are taken; try again later.")


def encoded_refusal(error: ServiceError) -> bytes:
    """A whole response that carries `error` and closes the connection."""
    problem = Problem(error, accept_request_id(None))
    body = problem.encoded()
    headers = {
        **problem.headers(),
        "X-Request-ID": problem.request_id,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    head = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[problem.status] + head.encode("latin-1") + b"\r\n" + body


def refusing_app(error: ServiceError) -> ASGIApp:
    """An ASGI application that answers everything with one problem."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        problem = Problem(error, accept_request_id(None))
        headers = {"X-Request-ID": problem.request_id}
        await send_problem(problem, send=send, extra_headers=headers, must_close=True)

    return app
