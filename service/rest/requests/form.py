"""A streaming parser of multipart forms: one file named `video`, the other fields are short texts."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.domain.errors import ServiceError

FILE_FIELD = "video"
# Four times as many as there are options.
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 8192
# Text before the first boundary, which RFC 2046 (5.1.1) has receivers ignore.
_MAX_PREAMBLE_BYTES = 8192


class FormParser:
    """Feeds python-multipart, returns the file's bytes and keeps the text fields.

    Every fault of the form raises ServiceError: `malformed_body`, or `bad_option` for an unknown field.
    """

    def __init__(self, boundary: bytes) -> None:
        self.fields: list[tuple[str, str]] = []
        self.has_file = False
        self._file_data: list[bytes] = []
        self._first_boundary = b"--" + boundary
        self._preamble: bytearray | None = bytearray()
        self._is_finished = False
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._is_file_part = False
        self._text = bytearray()
        callbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # a TypedDict of its own

    def feed(self, data: bytes) -> list[bytes]:
        """Parse more of the body and return the file's bytes in it."""
        if self._preamble is not None:
            data = self._after_preamble(data)
        try:
            self._parser.write(data)
        except FormParserError:
            raise ServiceError("malformed_body", "The form is not well-formed multipart/form-data.") from None
        file_data, self._file_data = self._file_data, []
        return file_data

    def _after_preamble(self, data: bytes) -> bytes:
        """Drop the text before the first boundary. Return what follows; empty until the boundary has arrived."""
        assert self._preamble is not None
        self._preamble += data
        at = 0 if self._preamble.startswith(self._first_boundary) else -1
        if at < 0:
            at = self._preamble.find(b"\r\n" + self._first_boundary)
            at += 2 if at >= 0 else 0
        if at > _MAX_PREAMBLE_BYTES or (at < 0 and len(self._preamble) > _MAX_PREAMBLE_BYTES):
            raise ServiceError("malformed_body", "The form does not begin with the boundary of its Content-Type.")
        if at < 0:
            return b""
        rest = bytes(self._preamble[at:])
        self._preamble = None
        return rest

    def finish(self) -> None:
        """End the body; raises `malformed_body` if the form is incomplete."""
        if not self._is_finished:
            raise ServiceError("malformed_body", "The form ends before its last boundary.")

    def _on_part_begin(self) -> None:
        self._headers = {}
        self._text = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in parameters:
            raise ServiceError("malformed_body", "A part of the form has no name.")
        self._name = parameters[b"name"].decode("utf-8", "replace")
        self._is_file_part = self._name == FILE_FIELD
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise ServiceError("unsupported_encoding", "A part of the form is encoded; send its bytes as they are.")
        if not self._is_file_part and b"filename" in parameters:
            raise ServiceError("bad_option", f"{self._name[:64]!r} is a file; the form takes one file, `{FILE_FIELD}`.")
        if self._is_file_part and self.has_file:
            raise ServiceError("malformed_body", f"The form has more than one field `{FILE_FIELD}`.")
        self.has_file = self.has_file or self._is_file_part
        if len(self.fields) >= _MAX_FIELDS:
            raise ServiceError("malformed_body", f"The form has more than {_MAX_FIELDS} fields.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file_part:
            self._file_data.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_FIELD_BYTES:
            raise ServiceError("bad_option", f"{self._name[:64]!r}: longer than {_MAX_FIELD_BYTES} bytes.")

    def _on_part_end(self) -> None:
        if self._is_file_part:
            return
        try:
            self.fields.append((self._name, self._text.decode("utf-8")))
        except UnicodeDecodeError:
            raise ServiceError("bad_option", f"{self._name[:64]!r} is not UTF-8 text.") from None

    def _on_end(self) -> None:
        self._is_finished = True
