"""Checks of a request before its body: ids, media types, length, timeout, options in the query."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.types import Scope

from service.domain.errors import ServiceError
from service.domain.options import OPTION_NAMES
from service.formats.choose import BY_ACCEPT

# Names of the MP4 family. Phones, browsers and file managers use all of them for files that are decoded alike.
RAW_TYPES = (
    "video/mp4",
    "video/quicktime",
    "video/x-m4v",
    "video/3gpp",
    "video/3gpp2",
    "application/mp4",
    "application/octet-stream",
)
JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
SSE_TYPE = "text/event-stream"
# Most seconds of a timeout: a day.
MAX_TIMEOUT_S = 86_400.0
# Most characters of an option: more than all 70 labels of AVSBench-semantic together.
MAX_OPTION_BYTES = 8192
# Bytes that a form may hold beside its file: boundaries, part headers, option fields.
FORM_OVERHEAD_BYTES = 64 * 1024
# Bytes of a JSON body, which holds a URL and options.
MAX_JSON_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A checked head of POST /segment (or of a job)."""

    # The format that `Accept` asks for.
    answer_type: str
    # The form's boundary; None for a raw body.
    boundary: bytes | None
    length: int | None
    timeout_s: float | None
    may_use_cache: bool
    # Options of the query, in order, not yet checked.
    options: tuple[tuple[str, str], ...]
    idempotency_key: str | None = None
    # The body is a JSON object that names the clip's URL.
    is_json: bool = False


def parse_head(scope: Scope) -> RequestHead:
    """Check the head of a request; raises ServiceError naming the fault."""
    headers = Headers(scope=scope)
    media_type = parse_options_header(headers.get("content-type", ""))[0]
    is_json = media_type == JSON_TYPE.encode()
    return RequestHead(
        answer_type=answer_type(headers.getlist("accept")),
        boundary=None if is_json else _boundary(headers),
        length=_length(headers.get("content-length")),
        timeout_s=_timeout_s(headers.get("x-request-timeout")),
        may_use_cache=not _has_directive(headers.getlist("cache-control"), "no-cache"),
        options=parse_query(scope["query_string"]),
        idempotency_key=headers.get("idempotency-key"),
        is_json=is_json,
    )


def merge_options(*sources: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return options of query and form as one mapping; raises `bad_option` for repeated or overlong ones."""
    merged: dict[str, str] = {}
    for name, value in (pair for source in sources for pair in source):
        if name in merged:
            raise ServiceError("bad_option", f"{name[:64]}: given more than once.")
        if name in OPTION_NAMES and len(value) > MAX_OPTION_BYTES:
            raise ServiceError("bad_option", f"{name}: longer than {MAX_OPTION_BYTES} characters.")
        merged[name] = value
    return merged


def check_length(length: int | None, *, max_bytes: int, is_form: bool) -> None:
    """Refuse a body by its Content-Length before any of it is read."""
    allowed = max_bytes + (FORM_OVERHEAD_BYTES if is_form else 0)
    if length is not None and length > allowed:
        raise ServiceError("upload_too_large", f"The request has {length} bytes; the limit is {max_bytes} bytes.")


def _boundary(headers: Headers) -> bytes | None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ServiceError("unsupported_encoding", f"Content-Encoding {encoding[:64]!r}: send the bytes as they are.")
    given = headers.get("content-type")
    if given is None:
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            raise ServiceError("missing_file", "The request has no body; send the clip as form field `video` or raw.")
        raise ServiceError("unsupported_content_type", f"There is no Content-Type; send one of {_offered()}.")
    media_type, parameters = parse_options_header(given)
    if media_type == b"multipart/form-data":
        boundary = parameters.get(b"boundary", b"")
        if not 0 < len(boundary) <= 70:  # RFC 2046, 5.1.1
            raise ServiceError("malformed_body", "The form has no boundary of 1 to 70 characters in its Content-Type.")
        return boundary
    name = media_type.decode("latin-1")
    if name not in RAW_TYPES:
        raise ServiceError("unsupported_content_type", f"Content-Type {name[:64]!r}: send one of {_offered()}.")
    return None


def _offered() -> str:
    return ", ".join(("multipart/form-data", *RAW_TYPES, JSON_TYPE))


def _length(given: str | None) -> int | None:
    if given is None:
        return None
    if not given.isascii() or not given.isdigit():
        raise ServiceError("malformed_body", "Content-Length is not a number.")
    return int(given)


def _timeout_s(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        timeout_s = float(given)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ServiceError("bad_option", f"X-Request-Timeout: give seconds, over 0 and at most {MAX_TIMEOUT_S:g}.")
    return timeout_s


def _has_directive(values: list[str], directive: str) -> bool:
    return any(part.strip().lower() == directive for value in values for part in value.split(","))


def parse_query(query: bytes) -> tuple[tuple[str, str], ...]:
    """Return the fields of a query string, in order; raises `bad_option`."""
    try:
        return tuple(parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=64, errors="strict"))
    except ValueError:
        raise ServiceError("bad_option", "The query string is malformed or has more than 64 fields.") from None


def answer_type(accepts: list[str]) -> str:
    """Return the format with the highest quality (RFC 9110, 12.5.1); of equally welcome ones the first, JSON."""
    ranges = [_media_range(part) for value in accepts for part in value.split(",") if part.strip()]
    qualities = {name: _quality(ranges, media_type) for media_type, name in BY_ACCEPT.items()}
    best = max(qualities, key=lambda name: qualities[name])
    if qualities[best] <= 0:
        raise ServiceError("not_acceptable", f"Accept: this route answers {', '.join(BY_ACCEPT)}.")
    return best


def _media_range(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return media_type, quality


def _quality(ranges: list[tuple[str, float]], media_type: str) -> float:
    if not ranges:
        return 1.0
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):  # the most specific range decides
        matching = [quality for name, quality in ranges if name == pattern]
        if matching:
            return max(matching)
    return 0.0
