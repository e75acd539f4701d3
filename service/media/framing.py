"""Messages between a decoder child and its parent: length-prefixed, and parsed as untrusted data.

Child to parent: one byte of kind, four bytes of length (little endian), body. Each kind has its own limit, so a child
that a hostile file has taken over can neither exhaust the parent nor make it read endlessly. Parent to child: nine
bytes, `<Q?`, the upload's size and whether it is complete, in answer to each NEED; one byte in answer to MEMORY.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from service.domain.chunk import WINDOW_SAMPLES, SampleBlock
from service.domain.clip import AudioInfo, ClipInfo
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks, Mask, Rle
from service.media.policy import DecodeJob, MediaPolicy

CLIP, BLOCK, NEED, PROGRESS, END, ERROR, FRAME, MEMORY, PIECE = range(1, 10)
HEADER = struct.Struct("<BI")
GROWN = struct.Struct("<Q?")
MEMORY_GRANTED = b"\1"
_NEED_BODY = struct.Struct("<Q")
_BLOCK_HEAD = struct.Struct("<HI")
_SAMPLE_DTYPE = np.dtype([("offset", "<i8"), ("sample_time_s", "<f8"), ("timestamp_s", "<f8"), ("index", "<i8")])

# Still pictures: JPEG or RGB24 as the request's kind, then the source's height and width (RGB24 only), the wanted
# height and width in pixels, and the number of bytes that follow.
JPEG, RGB24 = 1, 2
STILL_REQUEST = struct.Struct("<BIIIIQ")
# Height and width of the source picture, before the answer's RGB bytes.
STILL_SIZE = struct.Struct("<II")

# Number of bytes of the masks that follow, for an overlay.
MASKS_SIZE = struct.Struct("<Q")
# Most bytes of one PIECE message of a file.
MAX_PIECE_BYTES = 64 * 1024

# Datagrams on the zygote's control socket, and descriptors of a child: its socket and its upload.
MAX_CONTROL_BYTES = 16 * 1024
MAX_JOB_FDS = 2

AUDIO_NOTES = ("antiphase", "clipped", "silent")
MAX_BLOCK_SAMPLES = 8
_SHORT_NAME = re.compile(r"[a-z0-9_]{1,32}")
_MAX_JSON_BYTES = 16 * 1024
_MAX_DETAIL_CHARS = 500
_CHILD_CODES = frozenset(
    [
        "empty_file",
        "not_mp4",
        "unsupported_codec",
        "no_moov",
        "no_video",
        "no_audio",
        "no_frames",
        "encrypted",
        "truncated",
        "broken",
        "external_data",
        "too_long",
        "too_many_frames",
        "picture_too_large",
        "too_many_streams",
        "too_costly",
        "bad_option",
        "malformed_body",
        "internal",
    ]
)


class ProtocolError(Exception):
    """The child violated the protocol."""


@dataclass(frozen=True, slots=True)
class FrameSize:
    """Height and width in pixels of every frame of a connection. Blocks of another size are refused."""

    height: int
    width: int

    @property
    def num_bytes(self) -> int:
        """Return the bytes of one RGB frame."""
        return self.height * self.width * 3


def pack(kind: int, body: bytes = b"") -> bytes:
    """Return a whole message."""
    return HEADER.pack(kind, len(body)) + body


def max_body_bytes(kind: int, size: FrameSize) -> int:
    """Return the largest number of bytes of the body of a message of this kind.

    Raises:
        ProtocolError: the kind is unknown.
    """
    windows = MAX_BLOCK_SAMPLES * WINDOW_SAMPLES * 2
    block = _BLOCK_HEAD.size + MAX_BLOCK_SAMPLES * (_SAMPLE_DTYPE.itemsize + size.num_bytes) + windows
    bounds = {CLIP: _MAX_JSON_BYTES, END: _MAX_JSON_BYTES, ERROR: _MAX_JSON_BYTES, NEED: 8, MEMORY: 8, PROGRESS: 0}
    bounds |= {BLOCK: block, FRAME: 8 + size.num_bytes, PIECE: MAX_PIECE_BYTES}
    if kind not in bounds:
        raise ProtocolError(f"kind {kind}")
    return bounds[kind]


def pack_clip(kind: int, clip: ClipInfo) -> bytes:
    """Return a CLIP or END message."""
    return pack(kind, json.dumps(asdict(clip)).encode())


def unpack_clip(body: bytes | bytearray) -> ClipInfo:
    """Return the clip of a CLIP or END message, with each field checked."""
    fields = _unpack_json(body)
    width, height = _integer(fields, "width"), _integer(fields, "height")
    ratio = fields.get("sample_aspect_ratio")
    if not (0 < width < 2**16 and 0 < height < 2**16 and isinstance(ratio, str) and len(ratio) < 32):
        raise ProtocolError("clip")
    num_samples = None if fields.get("num_samples") is None else _integer(fields, "num_samples")
    return ClipInfo(
        width=width,
        height=height,
        sample_aspect_ratio=ratio,
        duration_s=_number(fields, "duration_s"),
        frame_rate=_number(fields, "frame_rate"),
        num_samples=num_samples,
        audio=_unpack_audio(fields.get("audio")),
    )


def _unpack_audio(fields: object) -> AudioInfo | None:
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise ProtocolError("audio")
    codec, language, notes = fields.get("codec"), fields.get("language"), fields.get("notes")
    if not isinstance(codec, str) or not _SHORT_NAME.fullmatch(codec):
        raise ProtocolError("codec")
    if language is not None and not (isinstance(language, str) and _SHORT_NAME.fullmatch(language)):
        raise ProtocolError("language")
    if notes is not None and not (isinstance(notes, list) and all(note in AUDIO_NOTES for note in notes)):
        raise ProtocolError("notes")
    return AudioInfo(
        track=_integer(fields, "track"),
        codec=codec,
        channels=_integer(fields, "channels"),
        sample_rate_hz=_integer(fields, "sample_rate_hz"),
        language=language,
        notes=None if notes is None else tuple(note for note in AUDIO_NOTES if note in notes),
    )


def pack_error(error: ServiceError, *, cause: str = "") -> bytes:
    """Return an ERROR message; `cause` is for the parent's log, not for the caller."""
    return pack(ERROR, json.dumps({"code": error.code, "detail": error.detail, "cause": cause[:200]}).encode())


def unpack_error(body: bytes | bytearray) -> tuple[ServiceError, str]:
    """Return the error of an ERROR message (a known code and a short printable detail) and its cause for the log."""
    fields = _unpack_json(body)
    code, detail, cause = fields.get("code"), fields.get("detail"), fields.get("cause")
    if not isinstance(code, str) or code not in _CHILD_CODES or not isinstance(detail, str):
        raise ProtocolError("error")
    return ServiceError(code, _printable(detail)), _printable(cause) if isinstance(cause, str) else ""


def _printable(text: str) -> str:
    return "".join(char for char in text[:_MAX_DETAIL_CHARS] if char.isprintable())


def pack_need(num_bytes: int) -> bytes:
    """Return a NEED message: the child waits until the upload has this many bytes."""
    return pack(NEED, _NEED_BODY.pack(num_bytes))


def unpack_need(body: bytes | bytearray) -> int:
    """Return the number of bytes of a NEED or MEMORY message."""
    if len(body) != _NEED_BODY.size:
        raise ProtocolError("need")
    return int(_NEED_BODY.unpack(body)[0])


def pack_memory(num_bytes: int) -> bytes:
    """Return a MEMORY message: the child waits until it may use this many bytes of memory."""
    return pack(MEMORY, _NEED_BODY.pack(num_bytes))


def pack_block(block: SampleBlock) -> list[bytes | memoryview]:
    """Return a BLOCK message as buffers to be written one after another; the frames are not copied."""
    table = np.empty(len(block), _SAMPLE_DTYPE)
    table["offset"], table["index"] = block.offsets, block.indexes
    table["sample_time_s"], table["timestamp_s"] = block.sample_times_s, block.timestamps_s
    head = _BLOCK_HEAD.pack(len(block), len(block.audio)) + table.tobytes() + block.audio.tobytes()
    frames = np.ascontiguousarray(block.frames).data.cast("B")
    return [HEADER.pack(BLOCK, len(head) + len(frames)) + head, frames]


def unpack_block(body: bytes | bytearray, size: FrameSize) -> SampleBlock:
    """Return the samples of a BLOCK message. Its arrays are views of `body`."""
    if len(body) < _BLOCK_HEAD.size:
        raise ProtocolError("block")
    num, num_audio = _BLOCK_HEAD.unpack_from(body)
    audio_at = _BLOCK_HEAD.size + num * _SAMPLE_DTYPE.itemsize
    frames_at = audio_at + 2 * num_audio
    if not 1 <= num <= MAX_BLOCK_SAMPLES or len(body) != frames_at + num * size.num_bytes:
        raise ProtocolError("block size")
    table = np.frombuffer(body, _SAMPLE_DTYPE, num, _BLOCK_HEAD.size)
    offsets = table["offset"].astype(np.int64)
    times = table["sample_time_s"].astype(np.float64)
    stamps = table["timestamp_s"].astype(np.float64)
    if offsets.min() < 0 or offsets.max() + WINDOW_SAMPLES > num_audio:
        raise ProtocolError("block offsets")
    if not (np.isfinite(times).all() and np.isfinite(stamps).all() and (np.diff(times) > 0).all()):
        raise ProtocolError("block times")
    frames = np.frombuffer(body, np.uint8, num * size.num_bytes, frames_at)
    return SampleBlock(
        frames=frames.reshape(num, size.height, size.width, 3),
        audio=np.frombuffer(body, "<i2", num_audio, audio_at),
        offsets=offsets,
        sample_times_s=times,
        timestamps_s=stamps,
        indexes=table["index"].astype(np.int64),
    )


def drop_samples(block: SampleBlock, num: int) -> SampleBlock:
    """Return the block without its first `num` samples (fewer than it has)."""
    return SampleBlock(
        frames=block.frames[num:],
        audio=block.audio,
        offsets=block.offsets[num:],
        sample_times_s=block.sample_times_s[num:],
        timestamps_s=block.timestamps_s[num:],
        indexes=block.indexes[num:],
    )


def pack_job(job: DecodeJob) -> dict[str, Any]:
    """Return a job as JSON values."""
    return asdict(job)


def unpack_job(fields: dict[str, Any]) -> DecodeJob:
    """Return the job of `pack_job`, which comes from our own parent and is trusted."""
    return DecodeJob(**{**fields, "policy": MediaPolicy(**fields["policy"])})


def pack_masks(frames: Iterable[FrameMasks]) -> bytes:
    """What an overlay needs of an answer: the masks of each frame with its time."""
    rows = [[frame.timestamp_s, [_mask_row(mask) for mask in frame.masks]] for frame in frames]
    return json.dumps(rows, separators=(",", ":")).encode()


def _mask_row(mask: Mask) -> list[object]:
    rle = mask.segmentation
    return [mask.label, mask.score, mask.area, mask.bbox, rle.size, rle.counts, mask.track_id]


def unpack_masks(data: bytes) -> list[FrameMasks]:
    """The frames of `pack_masks` (from our own parent: trusted), with the same time for sample and frame."""
    return [
        FrameMasks(
            time_s,
            time_s,
            0,
            tuple(
                Mask(label, score, area, tuple(bbox), Rle(tuple(size), counts), track_id)
                for label, score, area, bbox, size, counts, track_id in masks
            ),
        )
        for time_s, masks in json.loads(data)
    ]


def _unpack_json(body: bytes | bytearray) -> dict[str, object]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError("json") from None
    if not isinstance(fields, dict):
        raise ProtocolError("json")
    return fields


def _integer(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value < 2**31:
        raise ProtocolError(name)
    return value


def _number(fields: dict[str, object], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= float(str(value)) < 1e9:
        raise ProtocolError(name)
    return float(str(value))
