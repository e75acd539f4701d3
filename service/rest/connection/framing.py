"""Split the bytes of one connection into request heads and pieces of bodies, and bound every byte that is no body.

The HTTP parser is fed one head or one piece at a time, so that it never sees a second request before the first one is
answered, and never collects trailers or chunk extensions without limit. The parser stays the authority: where it
disagrees about the end of a message, the connection is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from service.domain.errors import ServiceError
from service.rest.connection.websocket import is_websocket_request

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_UPGRADE = re.compile(rb"(?i)\nupgrade(?=[ \t]*:)")
_IGNORED_UPGRADE = b"\nx-ignored-upgrade"
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_BLANK = b"\r\n"
_BLANKS = (b"\r", b"\n")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes for the parser: a whole head, or a part of a body with its framing.

    Attributes:
        data: the bytes.
        is_head: whether this is a head.
        ends_body: whether the message must be complete after a piece of a body.
        is_websocket: whether this head switches the connection to a WebSocket.
    """

    data: bytes
    is_head: bool = False
    ends_body: bool = False
    is_websocket: bool = False


class RequestSplitter:
    """Splitter of one connection's bytes.

    Args:
        max_head_bytes: limit of a head, and of each line of chunk framing or trailers. All such lines of one body may
            take as many bytes, plus as many as the body itself, so that small chunks are served and one-byte chunks
            are not.
    """

    def __init__(self, *, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        # Bytes, not a bytearray: a piece that is all of one read is handed on without being copied.
        self._buffer = b""
        self._searched = 0
        self._num_blank = 0
        self._part: Literal["head", "fixed", "size", "data", "data_end", "trailer"] = "head"
        self._left_bytes = 0
        self._num_body = 0
        self._num_framing = 0

    @property
    def is_between_requests(self) -> bool:
        """Whether the next bytes belong to a head."""
        return self._part == "head"

    @property
    def num_waiting(self) -> int:
        """Bytes that were added and not yet taken."""
        return len(self._buffer)

    def add(self, data: bytes) -> None:
        """Append bytes from the connection; blank lines between requests are counted and dropped.

        Raises:
            ServiceError: `headers_too_large` for too many blank lines.
        """
        self._buffer = self._buffer + data if self._buffer else data
        if self._part == "head":
            self._drop_blank_lines()

    def take_rest(self) -> bytes:
        """Return and forget what has not been taken, for the protocol that follows."""
        return self._cut(len(self._buffer))

    def begin_body(self, length: int | None) -> None:
        """Expect a body after the head that was taken last: of `length` bytes, or in chunks for None."""
        self._num_body = self._num_framing = 0
        self._part = "size" if length is None else "fixed"
        self._left_bytes = length or 0

    def take(self) -> Piece | None:
        """Take the next piece; None until more bytes come.

        Raises:
            ServiceError: `headers_too_large`, `malformed_body`.
        """
        if self._part == "head":
            return self._take_head()
        if self._part == "fixed":
            return self._take_fixed()
        return self._take_chunks()

    def _drop_blank_lines(self) -> None:
        num_blank = len(self._buffer) - len(self._buffer.lstrip(_BLANK)) if self._buffer[:1] in _BLANKS else 0
        if num_blank:
            self._buffer = self._buffer[num_blank:]
            self._num_blank += num_blank
            if self._num_blank > self._max_head_bytes:
                raise self._too_large("The bytes between two requests are")

    def _take_head(self) -> Piece | None:
        self._drop_blank_lines()
        if not self._buffer:
            return None
        if not 65 <= self._buffer[0] <= 90:  # methods are upper-case letters; TLS and other protocols fail at once
            raise ServiceError("malformed_body", "This is not a well-formed HTTP/1.1 request.")
        found = _HEAD_END.search(self._buffer, max(0, self._searched - 3))
        if (len(self._buffer) if found is None else found.end()) > self._max_head_bytes:
            raise self._too_large("The request's head is")
        if found is None:
            self._searched = len(self._buffer)
            return None
        self._num_blank = self._searched = 0
        head = self._cut(found.end())
        if is_websocket_request(head):
            return Piece(head, is_head=True, is_websocket=True)
        # Other offers to change the protocol are ignored (RFC 9110, 7.8): the parser would take the body for theirs.
        return Piece(_UPGRADE.sub(_IGNORED_UPGRADE, head), is_head=True)

    def _take_fixed(self) -> Piece | None:
        taken = min(self._left_bytes, len(self._buffer))
        if not taken:
            return None
        self._left_bytes -= taken
        if not self._left_bytes:
            self._part = "head"
        return Piece(self._cut(taken), ends_body=not self._left_bytes)

    def _take_chunks(self) -> Piece | None:
        at = 0
        while (after := self._next_element(at)) is not None:
            at = after
            if self._part == "head":
                break
        allowed = self._max_head_bytes + self._num_body
        num_open = 0 if self._part in ("head", "data") else len(self._buffer) - at
        if self._num_framing + num_open > allowed:
            raise self._too_large("The chunk framing and trailers of the request are")
        return Piece(self._cut(at), ends_body=self._part == "head") if at else None

    def _next_element(self, at: int) -> int | None:
        """Return the position after the element of the chunked body at `at`; None if it is incomplete."""
        if self._part == "data":
            taken = min(self._left_bytes, len(self._buffer) - at)
            self._left_bytes -= taken
            self._num_body += taken
            if not self._left_bytes:
                self._part = "data_end"
            return at + taken if taken else None
        end = self._buffer.find(b"\r\n", at)
        if (len(self._buffer) if end < 0 else end) - at > self._max_head_bytes:
            raise self._too_large("A line of the chunk framing or trailers of the request is")
        if end < 0:
            return None
        self._num_framing += end + 2 - at
        if self._part == "size":
            self._begin_chunk(self._buffer[at:end])
        elif self._part == "data_end":
            self._part = "size"
        elif end == at:  # the empty line after the trailers
            self._part = "head"
        return end + 2

    def _begin_chunk(self, line: bytes) -> None:
        size = line.partition(b";")[0].rstrip(b" \t")
        if not _CHUNK_SIZE.fullmatch(size):
            raise ServiceError("malformed_body", "A chunk of the body has no size in hexadecimal digits.")
        self._left_bytes = int(size, 16)
        self._part = "data" if self._left_bytes else "trailer"

    def _cut(self, num_bytes: int) -> bytes:
        data, self._buffer = self._buffer[:num_bytes], self._buffer[num_bytes:]
        return data

    def _too_large(self, what: str) -> ServiceError:
        return ServiceError("headers_too_large", f"{what} over the limit of {self._max_head_bytes} bytes.")
