"""Redis addresses: parse a URL into its parts, or say what is wrong with it and how to write it.

    redis://[user[:password]@]host[:port][/database][?option=value&…]
    rediss://…            with TLS; valkey:// and valkeys:// mean the same
    unix://[user[:password]@]/path/to/socket[?db=0]

The user and password may contain `#`, `/`, `?` and `@` as they are: they end at the last `@`. Percent escapes in them
are decoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

DEFAULT_PORT = 6379
# Scheme -> whether the connection uses TLS; None is a Unix socket.
_SCHEMES: Mapping[str, bool | None] = {
    "redis": False,
    "valkey": False,
    "rediss": True,
    "valkeys": True,
    "unix": None,
}
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
_OPTIONS = ("db", "client_name")
_CERTIFICATE_CHECKS = ("required", "optional", "none")
_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+(?:%[\w.]+)?\]|[^\[\]:/?#@,\s]+)(?::(?P<port>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and how to log in.

    Attributes:
        host: name or address; empty for a Unix socket.
        port: TCP port.
        path: of a Unix socket; empty for TCP.
        database: number of the database.
        username, password: None where the URL names none.
        is_tls: whether the connection uses TLS.
        tls_options: redis-py's names: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (paths), `ssl_cert_reqs`.
        client_name: shown by `CLIENT LIST`.
    """

    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    tls_options: Mapping[str, str] = field(default_factory=dict)
    client_name: str | None = None


def parse_redis_address(url: str) -> RedisAddress:
    """Parse a URL.

    Raises:
        ValueError: the URL is not usable; the message says how to write it and never repeats the password.
    """
    scheme, separator, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise ValueError(_scheme_advice(scheme if separator else ""))
    login, at, place = rest.rpartition("@")
    username, colon, password = login.partition(":")
    place, _, query = place.partition("?")
    options = _options(query, is_tls=bool(_SCHEMES[scheme]))
    common: dict[str, object] = {
        "username": unquote(username) if username else None,
        "password": unquote(password) if at and colon else None,
        "is_tls": bool(_SCHEMES[scheme]),
        "client_name": options.pop("client_name", None),
    }
    database = options.pop("db", None)
    if _SCHEMES[scheme] is None:
        if not place.startswith("/"):
            raise ValueError("a unix:// URL needs the absolute path of a socket: unix:///run/redis/redis.sock")
        return RedisAddress(path=unquote(place), database=_number(database or "0"), **common)  # type: ignore[arg-type]
    host, port, path = _place(place)
    number = _number(database if database is not None else path or "0")
    return RedisAddress(host=host, port=port, database=number, tls_options=options, **common)  # type: ignore[arg-type]


def _place(place: str) -> tuple[str, int, str]:
    """Host, port and database of what follows the login."""
    authority, _, path = place.partition("/")
    if "," in authority:
        raise ValueError("name one server; several nodes are not supported: give the primary or a proxy before them")
    found = _HOST.fullmatch(authority)
    if found is None:
        raise ValueError(
            "no host is found in the URL: write redis://:password@host:6379/0, and where a password holds other signs, "
            "percent-encode it (@ as %40, # as %23, / as %2F, : as %3A)"
        )
    port = int(found["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError("the port must be between 1 and 65535")
    return found["host"].strip("[]"), port, path


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the database must be a number, as in redis://host:6379/0")
    return int(text)


def _options(query: str, *, is_tls: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = (*_OPTIONS, *(_TLS_OPTIONS if is_tls else ()))
    unknown = sorted(options.keys() - set(known))
    if unknown:
        hint = "; it needs rediss://" if unknown[0] in _TLS_OPTIONS else ""
        raise ValueError(f"the option {unknown[0]!r} is not known{hint}; known are {', '.join(known)}")
    if options.get("ssl_cert_reqs", "none") not in _CERTIFICATE_CHECKS:
        raise ValueError(f"ssl_cert_reqs must be one of {', '.join(_CERTIFICATE_CHECKS)}")
    return options


def _scheme_advice(scheme: str) -> str:
    if "sentinel" in scheme:
        return (
            "Sentinel is not asked for the primary: give redis:// with an address that follows the primary "
            "(a DNS name, a Kubernetes service, HAProxy); after a fail-over connections are opened anew"
        )
    if "cluster" in scheme:
        return "cluster mode is not supported: give redis:// and a server without cluster mode"
    known = ", ".join(f"{name}://" for name in _SCHEMES)
    return f"the URL must start with one of {known}, as in redis://:password@host:6379/0"
