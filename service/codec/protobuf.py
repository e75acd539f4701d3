"""Answers, options and live streams as protobuf messages, for the gRPC server and client."""

from __future__ import annotations

from typing import Any, Final

from service.codec.messages import MessageCodec, TupleCodec
from service.domain.clip import AudioInfo, ClipInfo
from service.domain.errors import ServiceError
from service.domain.live import (
    LiveEvent,
    LiveFrame,
    LiveFrameError,
    LiveInput,
    LiveMasks,
    LiveOptions,
    SoundPiece,
)
from service.domain.option_types import Names
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent, Summary
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

# Largest message in either direction: gRPC's own default, so clients need no channel option.
MAX_MESSAGE_BYTES: Final = 4 * 1024**2


class _RleCodec:
    """Run lengths: `size` is two fields of the message."""

    def encode(self, rle: Rle) -> pb.Rle:
        return pb.Rle(height=rle.size[0], width=rle.size[1], counts=rle.counts.encode("ascii"))

    def decode(self, message: pb.Rle) -> Rle:
        return Rle((message.height, message.width), message.counts.decode("ascii"))


_BOX: Final = TupleCodec(pb.Box, ("x", "y", "width", "height"))
_MASK: Final = MessageCodec(Mask, pb.Mask, codecs={"bbox": _BOX, "segmentation": _RleCodec()})
_FRAME: Final = MessageCodec(FrameMasks, pb.FrameMasks, codecs={"masks": _MASK})
_MODEL: Final = MessageCodec(ModelInfo, pb.ModelInfo)
# Notes about the sound are known at the end of an answer, so the Summary carries them.
_AUDIO: Final = MessageCodec(AudioInfo, pb.AudioInfo, omitted=frozenset({"notes"}))
_CLIP: Final = MessageCodec(ClipInfo, pb.ClipInfo, codecs={"audio": _AUDIO})
_EVENT: Final = MessageCodec(SoundEvent, pb.SoundEvent)
_SUMMARY: Final = MessageCodec(Summary, pb.Summary)
_LIVE_FRAME: Final = MessageCodec(LiveFrame, pb.LiveFrame)
_SOUND: Final = MessageCodec(SoundPiece, pb.AudioChunk, names={"pcm": "pcm_s16le"})
_LIVE_MASKS: Final = MessageCodec(LiveMasks, pb.LiveFrameMasks, codecs={"masks": _FRAME})
_LIVE_ERROR: Final = MessageCodec(LiveFrameError, pb.FrameError)
# `fps` is two fields of the message: a number, or the flag `native_fps`.
_OPTIONS: Final = MessageCodec(SegmentOptions, pb.SegmentOptions, omitted=frozenset({"fps"}))
_LIVE_OPTIONS: Final = MessageCodec(LiveOptions, pb.LiveOptions)


def encode_options(options: SegmentOptions) -> pb.SegmentOptions:
    """Return the first message of an upload."""
    message = _OPTIONS.encode(options)
    if options.fps == "native":
        message.native_fps = True
    else:
        message.fps = options.fps
    return message


def decode_options(message: pb.SegmentOptions) -> SegmentOptions:
    """Return the options of an upload; raises `bad_option`."""
    fields = _with_clean_labels(_OPTIONS.decode_fields(message))
    if message.native_fps and message.HasField("fps"):
        raise ServiceError("bad_option", "fps: leave it out where native_fps is set.")
    if message.native_fps:
        fields["fps"] = "native"
    elif message.HasField("fps"):
        fields["fps"] = message.fps
    return SegmentOptions(**fields)


def encode_live_options(options: LiveOptions) -> pb.LiveRequest:
    """Return the first message of a live stream."""
    return pb.LiveRequest(options=_LIVE_OPTIONS.encode(options))


def decode_live_options(message: pb.LiveOptions) -> LiveOptions:
    """Return the options of a live stream; raises `bad_option`."""
    return LiveOptions(**_with_clean_labels(_LIVE_OPTIONS.decode_fields(message)))


def encode_event(event: AnswerEvent) -> pb.SegmentResponse:
    """Return the message of an event."""
    if isinstance(event, FrameMasks):
        return pb.SegmentResponse(frame=_FRAME.encode(event))
    if isinstance(event, SoundEvent):
        return pb.SegmentResponse(event=_EVENT.encode(event))
    if isinstance(event, Summary):
        return pb.SegmentResponse(summary=_SUMMARY.encode(event))
    clip = _CLIP.encode(event.clip)
    clip.request_id = event.request_id
    clip.model.CopyFrom(_MODEL.encode(event.model))
    return pb.SegmentResponse(clip=clip)


def decode_event(message: pb.SegmentResponse, *, options: SegmentOptions) -> AnswerEvent | None:
    """Return the event of a message; None for a kind that this version does not know.

    Args:
        message: what the server sent.
        options: what the client asked for; the options as applied follow from them and the model.
    """
    kind = message.WhichOneof("payload")
    if kind == "clip":
        model = decode_model(message.clip.model)
        return ClipStarted(message.clip.request_id, model, _CLIP.decode(message.clip), options.resolve(model))
    if kind == "frame":
        return _FRAME.decode(message.frame)
    if kind == "event":
        return _EVENT.decode(message.event)
    return _SUMMARY.decode(message.summary) if kind == "summary" else None


def encode_model(model: ModelInfo) -> pb.ModelInfo:
    """Return the message of a model."""
    return _MODEL.encode(model)


def decode_model(message: pb.ModelInfo) -> ModelInfo:
    """Return the model of a message."""
    return _MODEL.decode(message)


def encode_live_input(item: LiveInput) -> pb.LiveRequest:
    """Return the message of a frame or a piece of sound; raises `bad_option` for a frame over the message limit."""
    if isinstance(item, SoundPiece):
        return pb.LiveRequest(audio=_SOUND.encode(item))
    message = pb.LiveRequest(frame=_LIVE_FRAME.encode(item))
    if message.ByteSize() > MAX_MESSAGE_BYTES:
        raise ServiceError("bad_option", f"A frame takes over {MAX_MESSAGE_BYTES} bytes; send it as JPEG.")
    return message


def decode_live_input(message: pb.LiveRequest) -> LiveInput:
    """Return the frame or the piece of sound of a message; raises `malformed_body` for anything else."""
    kind = message.WhichOneof("payload")
    if kind == "audio":
        return _SOUND.decode(message.audio)
    if kind == "frame":
        return _LIVE_FRAME.decode(message.frame)
    if kind == "options":
        raise ServiceError("malformed_body", "LiveRequest.options: send options once, as the first message.")
    raise ServiceError("malformed_body", "LiveRequest: send a frame or audio.")


def encode_live_event(event: LiveEvent) -> pb.LiveResponse:
    """Return the message of an event of a live answer."""
    if isinstance(event, LiveMasks):
        return pb.LiveResponse(frame=_LIVE_MASKS.encode(event))
    if isinstance(event, LiveFrameError):
        return pb.LiveResponse(frame_error=_LIVE_ERROR.encode(event))
    if isinstance(event, SoundEvent):
        return pb.LiveResponse(event=_EVENT.encode(event))
    return pb.LiveResponse(model=_MODEL.encode(event))


def decode_live_event(message: pb.LiveResponse) -> LiveEvent | None:
    """Return the event of a message; None for a kind that this version does not know."""
    kind = message.WhichOneof("payload")
    if kind == "model":
        return decode_model(message.model)
    if kind == "frame":
        return _LIVE_MASKS.decode(message.frame)
    if kind == "event":
        return _EVENT.decode(message.event)
    return _LIVE_ERROR.decode(message.frame_error) if kind == "frame_error" else None


def _with_clean_labels(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with `labels` read as in text: without blanks, `all` meaning every label."""
    return {**fields, "labels": Names().clean(fields["labels"])} if "labels" in fields else fields
