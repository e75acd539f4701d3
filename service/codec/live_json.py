"""Messages of the WebSocket /live: JSON texts, and binary pictures and sound behind a header of 16 bytes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from service.codec.answer_json import encode_event, encode_frame
from service.codec.option_json import decode_object, option_texts
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveFrame, LiveFrameError, LiveInput, LiveMasks, LiveOptions, SoundPiece
from service.domain.option_table import parse_fields
from service.domain.result import ModelInfo, SoundEvent

# Largest message that a client may send; the limit of a gRPC message too.
MAX_MESSAGE_BYTES: Final = 4 * 1024**2
HEARTBEAT: Final = '{"type":"heartbeat"}'
END: Final = '{"type":"end"}'
# Little-endian: kind, 3 unused bytes, kind-specific uint32, timestamp_s.
_HEADER: Final = struct.Struct("<B3xId")
_SIZE: Final = struct.Struct("<HH")
JPEG, SOUND, RGB24 = 1, 2, 3

_MODEL: Final = TypeAdapter(ModelInfo)
_ERROR: Final = TypeAdapter(LiveFrameError)


@dataclass(frozen=True, slots=True)
class LiveStart:
    """The first message of a client. `api_key` is for browsers, which cannot set headers on a WebSocket."""

    options: LiveOptions
    api_key: str | None


def decode_live_start(text: str) -> LiveStart:
    """Return the options of a stream; raises `malformed_body`, `bad_option`."""
    message = decode_object(text)
    if message.pop("type", None) != "options":
        raise ServiceError("malformed_body", 'The first message is {"type": "options", …}.')
    api_key = message.pop("api_key", None)
    if api_key is not None and not isinstance(api_key, str):
        raise ServiceError("bad_option", "api_key: give a text.")
    return LiveStart(parse_fields(LiveOptions, option_texts(message)), api_key or None)


def decode_live_input(data: bytes) -> LiveInput:
    """Return the picture or the piece of sound of a binary message; raises `malformed_body`."""
    if len(data) < _HEADER.size:
        raise ServiceError("malformed_body", f"A binary message begins with a header of {_HEADER.size} bytes.")
    kind, value, timestamp_s = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if kind == SOUND:
        return SoundPiece(timestamp_s, body, value)
    if kind == JPEG:
        return LiveFrame(timestamp_s, body, "jpeg", 0, 0)
    if kind == RGB24:
        width, height = _SIZE.unpack_from(data, 4)
        return LiveFrame(timestamp_s, body, "rgb24", width, height)
    raise ServiceError("malformed_body", f"Kind {kind} of a binary message is not 1 (JPEG), 2 (sound) or 3 (RGB24).")


def encode_live_input(item: LiveInput) -> bytes:
    """Return the binary message of a picture or a piece of sound."""
    if isinstance(item, SoundPiece):
        return _HEADER.pack(SOUND, item.sample_rate_hz, item.timestamp_s) + item.pcm
    if item.format == "jpeg":
        return _HEADER.pack(JPEG, 0, item.timestamp_s) + item.data
    size = int.from_bytes(_SIZE.pack(item.width, item.height), "little")
    return _HEADER.pack(RGB24, size, item.timestamp_s) + item.data


def is_end(text: str) -> bool:
    """Return whether a text message says that nothing more comes; raises `malformed_body` for any other message."""
    kind = decode_object(text).get("type")
    if kind == "options":
        raise ServiceError("malformed_body", "Send options once, as the first message.")
    if kind != "end":
        raise ServiceError("malformed_body", 'Text messages after the options: {"type": "end"} only.')
    return True


def encode_live_event(event: LiveEvent) -> str:
    """Return the text message of an event."""
    if isinstance(event, LiveMasks):
        numbers = {"latency_s": event.latency_s, "num_dropped_frames": event.num_dropped_frames}
        return _typed("frame", encode_frame(event.masks)[:-1] + b"," + json.dumps(numbers).encode()[1:])
    if isinstance(event, SoundEvent):
        return _typed("event", encode_event(event))
    if isinstance(event, LiveFrameError):
        return _typed("frame_error", _ERROR.dump_json(event))
    return _typed("model", _MODEL.dump_json(event))


def _typed(name: str, document: bytes) -> str:
    return f'{{"type":"{name}",' + document[1:].decode()
