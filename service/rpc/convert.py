"""Between protobuf messages and the values of the domain, one function a message."""

from __future__ import annotations

from service.domain.errors import ServiceError
from service.domain.live import (
    LiveEvent,
    LiveFrame,
    LiveFrameError,
    LiveInput,
    LiveMasks,
    LiveOptions,
    PixelFormat,
    SoundPiece,
)
from service.domain.options import MaskSize, SegmentOptions, split_labels
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Summary
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

_SIZES: dict[int, MaskSize] = {
    pb.MASK_SIZE_UNSPECIFIED: "source",
    pb.MASK_SIZE_SOURCE: "source",
    pb.MASK_SIZE_MODEL: "model",
}
_PIXEL_FORMATS: dict[int, PixelFormat] = {pb.PIXEL_FORMAT_JPEG: "jpeg", pb.PIXEL_FORMAT_RGB24: "rgb24"}


def segment_options(message: pb.SegmentOptions) -> SegmentOptions:
    """Options of an upload; raises `bad_option`."""
    if message.native_fps and message.HasField("fps"):
        raise ServiceError("bad_option", "fps: leave it out where native_fps is set.")
    return SegmentOptions(
        fps=message.fps if message.HasField("fps") else 1.0,
        native_fps=message.native_fps,
        start_s=message.start_s if message.HasField("start_s") else 0.0,
        end_s=message.end_s if message.HasField("end_s") else None,
        threshold=message.threshold if message.HasField("threshold") else None,
        size=_mask_size(message.size),
        labels=split_labels(message.labels),
        min_area=message.min_area if message.HasField("min_area") else 0,
    )


def live_options(message: pb.LiveOptions) -> LiveOptions:
    """Options of a live stream; raises `bad_option`."""
    defaults = LiveOptions()
    wait_s, waiting = message.max_audio_wait_s, message.max_waiting_frames
    return LiveOptions(
        threshold=message.threshold if message.HasField("threshold") else None,
        size=_mask_size(message.size),
        labels=split_labels(message.labels),
        max_audio_wait_s=wait_s if message.HasField("max_audio_wait_s") else defaults.max_audio_wait_s,
        max_waiting_frames=waiting if message.HasField("max_waiting_frames") else defaults.max_waiting_frames,
    )


def live_input(message: pb.LiveRequest) -> LiveInput:
    """A frame or a piece of sound; raises `malformed_body` for anything else."""
    kind = message.WhichOneof("payload")
    if kind == "audio":
        sound = message.audio
        return SoundPiece(sound.timestamp_s, sound.pcm_s16le, sound.sample_rate_hz)
    if kind == "frame":
        frame = message.frame
        pixel_format = _PIXEL_FORMATS.get(frame.format, "unknown")
        return LiveFrame(frame.timestamp_s, frame.data, pixel_format, frame.width, frame.height)
    if kind == "options":
        raise ServiceError("malformed_body", "LiveRequest.options: they come once, as the first message.")
    raise ServiceError("malformed_body", "LiveRequest: give a frame or audio.")


def segment_response(event: AnswerEvent) -> pb.SegmentResponse:
    """An event of an answer."""
    if isinstance(event, FrameMasks):
        return pb.SegmentResponse(frame=frame_masks(event))
    if isinstance(event, Summary):
        summary = pb.Summary(num_samples=event.num_samples, timings_s=event.timings_s, cached=event.cached)
        return pb.SegmentResponse(summary=summary)
    return pb.SegmentResponse(clip=_clip_info(event))


def live_response(event: LiveEvent) -> pb.LiveResponse:
    """An event of a live answer."""
    if isinstance(event, LiveMasks):
        masks = pb.LiveFrameMasks(
            masks=frame_masks(event.masks),
            latency_s=event.latency_s,
            num_dropped_frames=event.num_dropped_frames,
        )
        return pb.LiveResponse(frame=masks)
    if isinstance(event, LiveFrameError):
        error = pb.FrameError(timestamp_s=event.timestamp_s, code=event.code, detail=event.detail)
        return pb.LiveResponse(frame_error=error)
    return pb.LiveResponse(model=model_info(event))


def model_info(model: ModelInfo) -> pb.ModelInfo:
    """The model."""
    return pb.ModelInfo(
        variant=model.variant,
        checkpoint=model.checkpoint,
        labels=model.labels,
        input_height=model.input_height,
        input_width=model.input_width,
        world_version=model.world_version,
    )


def frame_masks(frame: FrameMasks) -> pb.FrameMasks:
    """The masks of one frame."""
    return pb.FrameMasks(
        sample_time_s=frame.sample_time_s,
        timestamp_s=frame.timestamp_s,
        index=frame.index,
        masks=[_mask(mask) for mask in frame.masks],
    )


def _clip_info(event: ClipStarted) -> pb.ClipInfo:
    clip = event.clip
    return pb.ClipInfo(
        request_id=event.request_id,
        model=model_info(event.model),
        width=clip.width,
        height=clip.height,
        sample_aspect_ratio=clip.sample_aspect_ratio,
        duration_s=clip.duration_s,
        frame_rate=clip.frame_rate,
        num_samples=clip.num_samples,
    )


def _mask(mask: Mask) -> pb.Mask:
    x, y, width, height = mask.bbox
    rle_height, rle_width = mask.segmentation.size
    return pb.Mask(
        label=mask.label,
        score=mask.score,
        area=mask.area,
        bbox=pb.Box(x=x, y=y, width=width, height=height),
        segmentation=pb.Rle(height=rle_height, width=rle_width, counts=mask.segmentation.counts.encode("ascii")),
    )


def _mask_size(size: int) -> MaskSize:
    if size not in _SIZES:
        raise ServiceError("bad_option", "size: give MASK_SIZE_SOURCE or MASK_SIZE_MODEL.")
    return _SIZES[size]
