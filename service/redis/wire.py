"""Versioned binary format of the messages in Redis: chunks to a worker, answers back to a front.

Layout of every message: 4 bytes magic, 1 byte version, 1 byte kind, uint32 little-endian header length, the header
(JSON), then raw little-endian arrays whose shapes follow from the header alone. Messages contain no executable content,
and readers validate all lengths, ranges and types, so a forged message can only make a chunk fail. Deadlines are sent
as remaining milliseconds, because machines have no common monotonic clock. Readers ignore unknown header fields and use
defaults for optional ones, so a new optional field needs no new version unless ignoring it would change masks.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from service.domain.chunk import (
    MAX_CHUNK_SAMPLES,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    Chunk,
    MaskPolicy,
    SampleBlock,
    SegmentedChunk,
)
from service.domain.deadline import Clock, Deadline
from service.domain.errors import CODES, ServiceError
from service.domain.request import accept_traceparent
from service.domain.result import ModelInfo

# Raise this with every change of the layout. It is part of every Redis key, so versions never read each other's data.
VERSION: Final = 1
_MAGIC: Final = b"AVES"
_PREFIX: Final = struct.Struct("<4sBBI")
_CHUNK, _ANSWER, _FAILURE = 1, 2, 3
_MAX_SIDE_PX: Final = 4096
_MAX_AUDIO_SAMPLES: Final = 3600 * SAMPLE_RATE_HZ
# Limit in bytes. An answer of 32 samples with many masks at 4K is far smaller.
_MAX_HEADER_BYTES: Final = 64 * 1024**2

_MODEL: Final = TypeAdapter(ModelInfo)
_MASKS: Final = TypeAdapter(MaskPolicy)
_SEGMENTED: Final = TypeAdapter(SegmentedChunk)


class WireError(ValueError):
    """The bytes are not a valid message of this version."""


def encode_chunk(chunk: Chunk, *, clock: Clock) -> bytes:
    """Encode a chunk. Its deadline is encoded as the milliseconds that remain now."""
    block = chunk.samples
    timeout_s = chunk.deadline.timeout_s(clock)
    header = {
        "request_id": chunk.request_id,
        "chunk_no": chunk.chunk_no,
        "checkpoint": chunk.checkpoint,
        "is_interactive": chunk.is_interactive,
        "timeout_ms": None if timeout_s is None else math.ceil(timeout_s * 1000),
        "traceparent": chunk.traceparent,
        "masks": _MASKS.dump_python(chunk.masks, mode="json"),
        "frames": list(block.frames.shape[:3]),
        "audio": len(block.audio),
    }
    arrays = (
        block.frames.astype("u1", copy=False),
        block.audio.astype("<i2", copy=False),
        block.offsets.astype("<i8", copy=False),
        block.sample_times_s.astype("<f8", copy=False),
        block.timestamps_s.astype("<f8", copy=False),
        block.indexes.astype("<i8", copy=False),
    )
    parts = [np.ascontiguousarray(array).data.cast("B") for array in arrays if array.size]
    return b"".join([_pack(_CHUNK, header), *parts])


def decode_chunk(data: bytes, *, clock: Clock, elapsed_s: float = 0.0) -> Chunk:
    """Decode a chunk. Its arrays are read-only views of `data`.

    Args:
        data: output of `encode_chunk`.
        clock: monotonic clock of this process, to which the deadline is converted.
        elapsed_s: seconds since the chunk was encoded, by a clock that both sides share (Redis).

    Raises:
        WireError: the bytes are not a chunk, or its parts are inconsistent.
    """
    header, body = _unpack(data, _CHUNK)
    try:
        num_samples, height, width = (_bounded(side, _MAX_SIDE_PX) for side in header["frames"])
        _require(num_samples <= MAX_CHUNK_SAMPLES, "too many samples")
        num_audio = _bounded(header["audio"], _MAX_AUDIO_SAMPLES)
        request_id, chunk_no = header["request_id"], header["chunk_no"]
        checkpoint, is_interactive = header["checkpoint"], header["is_interactive"]
        timeout_ms = header["timeout_ms"]
        traceparent = accept_traceparent(header.get("traceparent", ""))
        masks = _MASKS.validate_json(json.dumps(header["masks"]), strict=True)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("bad chunk header") from error
    _require(isinstance(request_id, str) and isinstance(checkpoint, str), "bad ids")
    _require(type(chunk_no) is int and chunk_no >= 0 and type(is_interactive) is bool, "bad chunk number or priority")
    _require(timeout_ms is None or (type(timeout_ms) is int and timeout_ms >= 0), "bad timeout")
    _check_masks(masks)
    block = _read_block(body, (num_samples, height, width), num_audio)
    timeout_s = None if timeout_ms is None else timeout_ms / 1000 - elapsed_s
    return Chunk(
        request_id=request_id,
        chunk_no=chunk_no,
        samples=block,
        masks=masks,
        deadline=Deadline.after(timeout_s, clock=clock),
        is_interactive=is_interactive,
        checkpoint=checkpoint,
        traceparent=traceparent,
    )


def encode_answer(answer: SegmentedChunk | ServiceError) -> bytes:
    """Encode the masks of a chunk, or the error that it failed with."""
    if isinstance(answer, ServiceError):
        header = {"code": answer.code, "detail": answer.detail, "retry_after_s": answer.retry_after_s}
        return _pack(_FAILURE, header)
    return _pack(_ANSWER, _SEGMENTED.dump_python(answer, mode="json"))


def decode_answer(data: bytes) -> SegmentedChunk | ServiceError:
    """Decode the output of `encode_answer`. Raises WireError for anything else."""
    kind = _kind(data)
    header, body = _unpack(data, kind)
    _require(not body, "bytes after the answer")
    if kind == _FAILURE:
        return _read_failure(header)
    _require(kind == _ANSWER, "not an answer")
    try:
        answer = _SEGMENTED.validate_json(json.dumps(header), strict=True)
    except ValidationError as error:
        raise WireError("bad answer") from error
    numbers = [answer.queue_s, answer.predict_s, answer.encode_s]
    for frame in answer.frames:
        numbers += [frame.sample_time_s, frame.timestamp_s, *(mask.score for mask in frame.masks)]
    _require(all(math.isfinite(number) for number in numbers), "numbers must be finite")
    _check_maps(answer)
    return answer


def _check_maps(answer: SegmentedChunk) -> None:
    _require(len(answer.maps) in (0, len(answer.frames)), "maps of other frames")
    for maps, frame in zip(answer.maps, answer.frames, strict=False):
        _require(len(maps) in (0, len(frame.masks)), "maps of other masks")
        for each in maps:
            height, width = each.size
            _require(0 < height <= _MAX_SIDE_PX and 0 < width <= _MAX_SIDE_PX, "bad map size")
            _require(len(each.values) == -(-height * width // 3) * 4 and each.values.isascii(), "bad map")


def encode_model(info: ModelInfo) -> bytes:
    """Encode a model's description as JSON."""
    return _MODEL.dump_json(info)


def decode_model(data: bytes) -> ModelInfo:
    """Decode the output of `encode_model`. Raises WireError for anything else."""
    try:
        info = _MODEL.validate_json(data, strict=True)
    except ValidationError as error:
        raise WireError("bad model description") from error
    _require(0 < info.input_height <= _MAX_SIDE_PX and 0 < info.input_width <= _MAX_SIDE_PX, "bad input size")
    _require(bool(info.labels) and bool(info.checkpoint), "a model has labels and a checkpoint")
    return info


def _read_failure(header: dict[str, Any]) -> ServiceError:
    code, detail, retry_after_s = header.get("code"), header.get("detail"), header.get("retry_after_s")
    if not isinstance(code, str) or code not in CODES or not isinstance(detail, str):
        raise WireError("bad failure")
    if retry_after_s is not None and not (isinstance(retry_after_s, int | float) and math.isfinite(retry_after_s)):
        raise WireError("bad retry time")
    return ServiceError(code, detail, retry_after_s=retry_after_s)


def _read_block(body: memoryview, shape: tuple[int, int, int], num_audio: int) -> SampleBlock:
    num_samples, height, width = shape
    reader = _Reader(body)
    block = SampleBlock(
        frames=reader.take("u1", num_samples * height * width * 3).reshape(num_samples, height, width, 3),
        audio=reader.take("<i2", num_audio),
        offsets=reader.take("<i8", num_samples),
        sample_times_s=reader.take("<f8", num_samples),
        timestamps_s=reader.take("<f8", num_samples),
        indexes=reader.take("<i8", num_samples),
    )
    reader.finish()
    last = num_audio - WINDOW_SAMPLES
    _require(bool(((block.offsets >= 0) & (block.offsets <= last)).all()), "an audio window lies outside the span")
    times_s = block.sample_times_s
    _require(bool(np.isfinite(times_s).all() and np.isfinite(block.timestamps_s).all()), "times must be finite")
    _require(bool((np.diff(times_s) > 0).all()), "sample times must rise")
    return block


class _Reader:
    """Reads consecutive arrays from a buffer. Raises WireError if it is too short or too long."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def take(self, dtype: str, count: int) -> NDArray[Any]:
        num_bytes = np.dtype(dtype).itemsize * count
        _require(self._at + num_bytes <= len(self._body), "cut off")
        array = np.frombuffer(self._body, dtype=dtype, count=count, offset=self._at)
        self._at += num_bytes
        return array

    def finish(self) -> None:
        _require(self._at == len(self._body), "bytes after the arrays")


def _check_masks(masks: MaskPolicy) -> None:
    height, width = masks.output_size
    _require(0 < height <= 2 * _MAX_SIDE_PX and 0 < width <= 2 * _MAX_SIDE_PX, "bad output size")
    _require(0 <= masks.threshold <= 1 and masks.min_area >= 0, "bad mask policy")


def _pack(kind: int, header: dict[str, Any]) -> bytes:
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    return _PREFIX.pack(_MAGIC, VERSION, kind, len(text)) + text


def _kind(data: bytes) -> int:
    _require(len(data) >= _PREFIX.size, "too short")
    magic, version, kind, _ = _PREFIX.unpack_from(data)
    _require(magic == _MAGIC and version == VERSION, "not a message of this version")
    return int(kind)


def _unpack(data: bytes, kind: int) -> tuple[dict[str, Any], memoryview]:
    _require(_kind(data) == kind, "another kind of message")
    length = _PREFIX.unpack_from(data)[3]
    end = _PREFIX.size + length
    _require(length <= _MAX_HEADER_BYTES and end <= len(data), "cut off")
    try:
        header = json.loads(data[_PREFIX.size : end])
    except (ValueError, RecursionError) as error:
        raise WireError("bad header") from error
    if not isinstance(header, dict):
        raise WireError("bad header")
    return header, memoryview(data)[end:]


def _bounded(value: object, most: int) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise WireError("a length is out of bounds")
    return value


def _require(is_right: bool, what: str) -> None:
    if not is_right:
        raise WireError(what)
