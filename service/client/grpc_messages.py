"""gRPC on the wire: options to protobuf, protobuf to the values of the domain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.client.policy import CHUNK_BYTES, ClientPolicy
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveFrame, LiveFrameError, LiveInput, LiveMasks, LiveOptions
from service.domain.options import MaskSize, SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, Summary
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

MAX_MESSAGE_BYTES = 4 * 1024**2
_SIZES: dict[MaskSize, pb.MaskSize] = {"source": pb.MASK_SIZE_SOURCE, "model": pb.MASK_SIZE_MODEL}


def channel_options(policy: ClientPolicy) -> list[tuple[str, int]]:
    """As gRPC core takes them. While a call runs, a server that answers no ping ends it, also where nothing is sent."""
    timeout_ms = round(1000 * policy.connect_timeout_s)
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.enable_retries", 0),  # retries are this client's own: they know the stable codes
        ("grpc.keepalive_time_ms", round(1000 * policy.keepalive_s)),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),  # core 1.85 waits a minute where only the other is set
        ("grpc.http2.max_pings_without_data", 0),
    ]


def metadata(policy: ClientPolicy, *, request_id: str | None) -> tuple[tuple[str, str], ...]:
    """What goes ahead of a call."""
    entries: list[tuple[str, str]] = []
    if policy.api_key is not None:
        entries.append(("authorization", f"Bearer {policy.api_key}"))
    if request_id is not None:
        entries.append(("x-request-id", request_id))
    return tuple(entries)


def segment_requests(source: Path | bytes, options: SegmentOptions) -> Iterator[pb.SegmentRequest]:
    """The messages of an upload: options, then the file in pieces."""
    yield pb.SegmentRequest(options=_segment_options(options))
    for piece in pieces(source):
        yield pb.SegmentRequest(chunk=piece)


def pieces(source: Path | bytes) -> Iterator[bytes]:
    """The bytes of a file or of a bytes object, `CHUNK_BYTES` at a time; an empty source gives one empty piece."""
    if isinstance(source, bytes):
        for at in range(0, max(1, len(source)), CHUNK_BYTES):
            yield source[at : at + CHUNK_BYTES]
        return
    with source.open("rb") as file:
        yield file.read(CHUNK_BYTES)
        while piece := file.read(CHUNK_BYTES):
            yield piece


def answer_event(message: pb.SegmentResponse, *, options: SegmentOptions) -> AnswerEvent | None:
    """An event of an answer; None for a kind that is not known yet. Options as applied follow from the model."""
    kind = message.WhichOneof("payload")
    if kind == "clip":
        model = model_info(message.clip.model)
        return ClipStarted(message.clip.request_id, model, _clip_info(message.clip), options.resolve(model))
    if kind == "frame":
        return frame_masks(message.frame)
    if kind == "summary":
        summary = message.summary
        return Summary(summary.num_samples, dict(summary.timings_s), summary.cached)
    return None


def live_options(options: LiveOptions) -> pb.LiveRequest:
    """The first message of a live stream."""
    message = pb.LiveOptions(
        threshold=options.threshold,
        size=_SIZES[options.size],
        labels=options.labels,
        max_audio_wait_s=options.max_audio_wait_s,
        max_waiting_frames=options.max_waiting_frames,
    )
    return pb.LiveRequest(options=message)


def live_request(item: LiveInput) -> pb.LiveRequest:
    """A frame or a piece of sound; raises `bad_option` for a frame over the message limit."""
    if not isinstance(item, LiveFrame):
        sound = pb.AudioChunk(timestamp_s=item.timestamp_s, pcm_s16le=item.pcm, sample_rate_hz=item.sample_rate_hz)
        return pb.LiveRequest(audio=sound)
    frame = pb.LiveFrame(
        timestamp_s=item.timestamp_s,
        data=item.data,
        format=pb.PIXEL_FORMAT_RGB24 if item.format == "rgb24" else pb.PIXEL_FORMAT_JPEG,
        width=item.width,
        height=item.height,
    )
    if frame.ByteSize() > MAX_MESSAGE_BYTES - 64:
        raise ServiceError("bad_option", f"A frame takes over {MAX_MESSAGE_BYTES} bytes; send it as JPEG.")
    return pb.LiveRequest(frame=frame)


def live_event(message: pb.LiveResponse) -> LiveEvent | None:
    """An event of a live answer; None for a kind that is not known yet."""
    kind = message.WhichOneof("payload")
    if kind == "model":
        return model_info(message.model)
    if kind == "frame":
        frame = message.frame
        return LiveMasks(frame_masks(frame.masks), frame.latency_s, frame.num_dropped_frames)
    if kind == "frame_error":
        return LiveFrameError(message.frame_error.timestamp_s, message.frame_error.code, message.frame_error.detail)
    return None


def model_info(message: pb.ModelInfo) -> ModelInfo:
    """The model."""
    return ModelInfo(
        variant=message.variant,
        checkpoint=message.checkpoint,
        labels=tuple(message.labels),
        world_version=message.world_version if message.HasField("world_version") else None,
        input_height=message.input_height,
        input_width=message.input_width,
    )


def frame_masks(message: pb.FrameMasks) -> FrameMasks:
    """The masks of one frame."""
    masks = tuple(_mask(mask) for mask in message.masks)
    return FrameMasks(message.sample_time_s, message.timestamp_s, message.index, masks)


def _segment_options(options: SegmentOptions) -> pb.SegmentOptions:
    return pb.SegmentOptions(
        fps=None if options.native_fps else options.fps,
        native_fps=options.native_fps,
        start_s=options.start_s,
        end_s=options.end_s,
        threshold=options.threshold,
        size=_SIZES[options.size],
        labels=options.labels,
        min_area=options.min_area,
    )


def _clip_info(message: pb.ClipInfo) -> ClipInfo:
    return ClipInfo(
        width=message.width,
        height=message.height,
        sample_aspect_ratio=message.sample_aspect_ratio,
        duration_s=message.duration_s if message.HasField("duration_s") else None,
        frame_rate=message.frame_rate if message.HasField("frame_rate") else None,
        num_samples=message.num_samples if message.HasField("num_samples") else None,
    )


def _mask(message: pb.Mask) -> Mask:
    box, rle = message.bbox, message.segmentation
    return Mask(
        label=message.label,
        score=message.score,
        area=message.area,
        bbox=(box.x, box.y, box.width, box.height),
        segmentation=Rle((rle.height, rle.width), rle.counts.decode("ascii")),
    )
