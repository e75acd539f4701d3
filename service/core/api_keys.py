"""API keys: a file of SHA-256 hashes with names and limits, reloaded when it changes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.domain.caller import ANONYMOUS, Caller, KeyLimits
from service.domain.errors import ServiceError

logger = logging.getLogger(__name__)
_HASH = re.compile(r"[0-9a-f]{64}")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(KiB|MiB|GiB)?")
_UNITS = {None: 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_LIMITS = ("weight", "requests", "samples_per_minute", "bytes_per_minute")

# Takes the value of `authorization` and returns the caller; raises ServiceError `unauthenticated`.
Authenticate = Callable[[str | None], Caller]


class ApiKeys:
    """Valid API keys: one SHA-256 (hex) per line, then an optional name and limits; `#` starts a comment.

        e3b0c442…b855  batch team  weight=2 requests=16 samples_per_minute=6000 bytes_per_minute=2GiB

    `printf %s "$KEY" | sha256sum` makes a hash. Without a file every caller is accepted. If the file cannot be read,
    the keys read last stay valid; at the start, no caller is accepted. A faulty line is logged and its key is not
    valid, so that a misspelt limit does not become no limit.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._callers: dict[str, Caller] = {}

    def check(self, authorization: str | None) -> Caller:
        """Return the caller; `ANONYMOUS` if no keys are set.

        Args:
            authorization: value of the Authorization header or metadata; None if absent.

        Raises:
            ServiceError: `unauthenticated`.
        """
        if self._path is None:
            return ANONYMOUS
        self._refresh(self._path)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ServiceError("unauthenticated", "Send the header `Authorization: Bearer KEY`.")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = ""
        for known in self._callers:  # every entry is compared, so that the time reveals nothing
            if hmac.compare_digest(known, digest):
                found = known
        if not found:
            raise ServiceError("unauthenticated", "This API key is not valid.")
        return self._callers[found]

    def caller_of(self, key_id: str) -> Caller:
        """Return the caller of a key id that `check` returned before; without name and limits if it was removed."""
        found = (caller for caller in self._callers.values() if caller.key_id == key_id)
        return next(found, Caller(key_id=key_id))

    def _refresh(self, path: Path) -> None:
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if version == self._version:
                return
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            logger.error("API keys cannot be read", extra={"reason": type(error).__name__})
            return
        self._callers = _parse(lines)
        self._version = version
        logger.info("API keys read", extra={"num_keys": len(self._callers)})


@dataclass(slots=True)
class _LineError(Exception):
    reason: str


def _parse(lines: list[str]) -> dict[str, Caller]:
    callers: dict[str, Caller] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            callers[words[0].lower()] = _caller(words)
        except _LineError as error:
            logger.error("a line of the API key file is not valid", extra={"line": number, "reason": error.reason})
    return callers


def _caller(words: list[str]) -> Caller:
    digest = words[0].lower()
    if not _HASH.fullmatch(digest):
        raise _LineError("not a SHA-256 in hex")
    name: list[str] = []
    given: dict[str, float] = {}
    for word in words[1:]:
        option, is_option, value = word.partition("=")
        if not is_option:
            name.append(word)
        elif option not in _LIMITS or option in given:
            raise _LineError(f"limits are {', '.join(_LIMITS)}, each once")
        else:
            given[option] = _number(option, value)
    requests = given.get("requests")
    limits = KeyLimits(
        requests=None if requests is None else int(requests),
        samples_per_minute=given.get("samples_per_minute"),
        bytes_per_minute=given.get("bytes_per_minute"),
    )
    return Caller(key_id=digest[:16], name=" ".join(name), weight=given.get("weight", 1.0), limits=limits)


def _number(option: str, text: str) -> float:
    found = _SIZE.fullmatch(text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if value <= 0 or (option == "requests" and value != int(value)):
        raise _LineError(f"{option}: give a number over 0")
    return value
