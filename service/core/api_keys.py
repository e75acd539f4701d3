"""API keys: a file of SHA-256 hashes, read again when it changes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path

from service.domain.errors import ServiceError

_logger = logging.getLogger(__name__)
_HASH = re.compile(r"[0-9a-f]{64}")


class ApiKeys:
    """Who may call. One key's SHA-256 (hex) a line, an optional name after it, `#` starts a comment.

    A hash is made with `printf %s "$KEY" | sha256sum`. Without a file every caller is let in; with a file that cannot
    be read the keys read last stay valid, and at the start nobody is let in.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._hashes: dict[str, str] = {}

    def check(self, authorization: str | None) -> str:
        """The caller's key id (the hash's first 16 digits; empty where no keys are asked).

        Args:
            authorization: the value of the Authorization header or metadata, None where absent.

        Raises:
            ServiceError: `unauthenticated`.
        """
        if self._path is None:
            return ""
        self._refresh(self._path)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ServiceError("unauthenticated", "Send the header `Authorization: Bearer KEY`.")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = ""
        for known in self._hashes:  # every entry is compared, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = known
        if not found:
            raise ServiceError("unauthenticated", "This API key is not known here.")
        return found[:16]

    def _refresh(self, path: Path) -> None:
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if version == self._version:
                return
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            _logger.error("API keys cannot be read", extra={"reason": type(error).__name__})
            return
        self._hashes = _parse(lines)
        self._version = version
        _logger.info("API keys read", extra={"num_keys": len(self._hashes)})


def _parse(lines: list[str]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split(None, 1)
        if not words:
            continue
        if not _HASH.fullmatch(words[0].lower()):
            _logger.error("a line of the API key file is not a SHA-256 in hex", extra={"line": number})
            continue
        hashes[words[0].lower()] = words[1] if len(words) > 1 else ""
    return hashes
