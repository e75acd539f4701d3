"""The list of formats: name, media type and writer of each, and the choice for a request."""

from __future__ import annotations

from typing import Final, Literal, get_args

from service.domain.option_table import Option
from service.domain.option_types import Choice
from service.formats.captions import CaptionFormatter
from service.formats.coco import CocoFormatter
from service.formats.document import DocumentFormatter
from service.formats.formatter import Formatter
from service.formats.lines import LinesFormatter
from service.formats.png import PngFormatter
from service.formats.polygons import PolygonsFormatter
from service.formats.table import TableFormatter

FormatName = Literal["json", "ndjson", "sse", "coco", "png", "polygons", "vtt", "srt", "csv", "overlay"]
FORMATS: Final[tuple[str, ...]] = get_args(FormatName)
MEDIA_TYPES: Final[dict[str, str]] = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "sse": "text/event-stream",
    "coco": "application/json",
    "png": "application/zip",
    "polygons": "application/json",
    "vtt": "text/vtt; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "overlay": "video/mp4",
}
# Formats that `Accept` can ask for, by media type; the first one is the default.
BY_ACCEPT: Final[dict[str, str]] = {
    media_type.partition(";")[0]: name
    for name, media_type in MEDIA_TYPES.items()
    if name not in ("coco", "polygons", "srt")
}
FORMAT: Final = Option(
    name="format",
    type=Choice(FORMATS),
    default=None,
    default_help="what `Accept` asks for, else json",
    help="Format of the answer; see docs/contract.md.",
)
# Formats whose masks are run lengths, so that the option `rle` applies.
WITH_RUN_LENGTHS: Final = ("json", "ndjson", "sse", "coco", "csv")


def formatter_of(name: str, *, is_compressed: bool, max_bytes: int) -> Formatter:
    """Return the formatter of a format that is made of the answer alone and sent as a whole.

    These are all but `sse` and `overlay`, which needs the clip too. Where `ndjson` is streamed, nothing is collected.

    Args:
        name: of FORMATS.
        is_compressed: run lengths of `json`, `coco` and `csv` as COCO's strings.
        max_bytes: of an answer that must be collected.

    Raises:
        ValueError: another name.
    """
    if name == "coco":
        return CocoFormatter(is_compressed=is_compressed, max_bytes=max_bytes)
    if name in ("vtt", "srt"):
        return CaptionFormatter(is_webvtt=name == "vtt")
    if name == "csv":
        return TableFormatter(is_compressed=is_compressed)
    if name == "ndjson":
        return LinesFormatter(is_compressed=is_compressed)
    if name == "json":
        return DocumentFormatter(is_compressed=is_compressed)
    if name == "png":
        return PngFormatter()
    if name == "polygons":
        return PolygonsFormatter()
    raise ValueError(f"{name} is not a format that is made of the answer alone")
