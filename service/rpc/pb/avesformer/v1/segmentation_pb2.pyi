from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MaskSize(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_SIZE_UNSPECIFIED: _ClassVar[MaskSize]
    MASK_SIZE_SOURCE: _ClassVar[MaskSize]
    MASK_SIZE_MODEL: _ClassVar[MaskSize]

class PixelFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_FORMAT_UNSPECIFIED: _ClassVar[PixelFormat]
    PIXEL_FORMAT_JPEG: _ClassVar[PixelFormat]
    PIXEL_FORMAT_RGB24: _ClassVar[PixelFormat]

class AnswerPart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_PART_UNSPECIFIED: _ClassVar[AnswerPart]
    ANSWER_PART_EVENTS: _ClassVar[AnswerPart]
MASK_SIZE_UNSPECIFIED: MaskSize
MASK_SIZE_SOURCE: MaskSize
MASK_SIZE_MODEL: MaskSize
PIXEL_FORMAT_UNSPECIFIED: PixelFormat
PIXEL_FORMAT_JPEG: PixelFormat
PIXEL_FORMAT_RGB24: PixelFormat
ANSWER_PART_UNSPECIFIED: AnswerPart
ANSWER_PART_EVENTS: AnswerPart

class SegmentRequest(_message.Message):
    __slots__ = ("options", "chunk")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    options: SegmentOptions
    chunk: bytes
    def __init__(self, options: _Optional[_Union[SegmentOptions, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class SegmentOptions(_message.Message):
    __slots__ = ("fps", "native_fps", "start_s", "end_s", "threshold", "size", "labels", "min_area", "audio_track", "only", "event_onset", "event_offset", "event_gap_s", "event_min_s", "instances", "resume_from_index")
    FPS_FIELD_NUMBER: _ClassVar[int]
    NATIVE_FPS_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MIN_AREA_FIELD_NUMBER: _ClassVar[int]
    AUDIO_TRACK_FIELD_NUMBER: _ClassVar[int]
    ONLY_FIELD_NUMBER: _ClassVar[int]
    EVENT_ONSET_FIELD_NUMBER: _ClassVar[int]
    EVENT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    EVENT_GAP_S_FIELD_NUMBER: _ClassVar[int]
    EVENT_MIN_S_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    RESUME_FROM_INDEX_FIELD_NUMBER: _ClassVar[int]
    fps: float
    native_fps: bool
    start_s: float
    end_s: float
    threshold: float
    size: MaskSize
    labels: _containers.RepeatedScalarFieldContainer[str]
    min_area: int
    audio_track: int
    only: AnswerPart
    event_onset: float
    event_offset: float
    event_gap_s: float
    event_min_s: float
    instances: bool
    resume_from_index: int
    def __init__(self, fps: _Optional[float] = ..., native_fps: _Optional[bool] = ..., start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., threshold: _Optional[float] = ..., size: _Optional[_Union[MaskSize, str]] = ..., labels: _Optional[_Iterable[str]] = ..., min_area: _Optional[int] = ..., audio_track: _Optional[int] = ..., only: _Optional[_Union[AnswerPart, str]] = ..., event_onset: _Optional[float] = ..., event_offset: _Optional[float] = ..., event_gap_s: _Optional[float] = ..., event_min_s: _Optional[float] = ..., instances: _Optional[bool] = ..., resume_from_index: _Optional[int] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("clip", "frame", "summary", "event", "heartbeat")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    clip: ClipInfo
    frame: FrameMasks
    summary: Summary
    event: SoundEvent
    heartbeat: Heartbeat
    def __init__(self, clip: _Optional[_Union[ClipInfo, _Mapping]] = ..., frame: _Optional[_Union[FrameMasks, _Mapping]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ..., event: _Optional[_Union[SoundEvent, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SoundEvent(_message.Message):
    __slots__ = ("label", "track_id", "start_s", "end_s", "peak_area", "mean_score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRACK_ID_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    PEAK_AREA_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_FIELD_NUMBER: _ClassVar[int]
    label: str
    track_id: int
    start_s: float
    end_s: float
    peak_area: int
    mean_score: float
    def __init__(self, label: _Optional[str] = ..., track_id: _Optional[int] = ..., start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., peak_area: _Optional[int] = ..., mean_score: _Optional[float] = ...) -> None: ...

class ClipInfo(_message.Message):
    __slots__ = ("request_id", "model", "width", "height", "sample_aspect_ratio", "duration_s", "frame_rate", "num_samples", "audio")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ASPECT_RATIO_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: ModelInfo
    width: int
    height: int
    sample_aspect_ratio: str
    duration_s: float
    frame_rate: float
    num_samples: int
    audio: AudioInfo
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., sample_aspect_ratio: _Optional[str] = ..., duration_s: _Optional[float] = ..., frame_rate: _Optional[float] = ..., num_samples: _Optional[int] = ..., audio: _Optional[_Union[AudioInfo, _Mapping]] = ...) -> None: ...

class AudioInfo(_message.Message):
    __slots__ = ("track", "codec", "channels", "sample_rate_hz", "language")
    TRACK_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    track: int
    codec: str
    channels: int
    sample_rate_hz: int
    language: str
    def __init__(self, track: _Optional[int] = ..., codec: _Optional[str] = ..., channels: _Optional[int] = ..., sample_rate_hz: _Optional[int] = ..., language: _Optional[str] = ...) -> None: ...

class FrameMasks(_message.Message):
    __slots__ = ("sample_time_s", "timestamp_s", "index", "masks")
    SAMPLE_TIME_S_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_S_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    sample_time_s: float
    timestamp_s: float
    index: int
    masks: _containers.RepeatedCompositeFieldContainer[Mask]
    def __init__(self, sample_time_s: _Optional[float] = ..., timestamp_s: _Optional[float] = ..., index: _Optional[int] = ..., masks: _Optional[_Iterable[_Union[Mask, _Mapping]]] = ...) -> None: ...

class Mask(_message.Message):
    __slots__ = ("label", "score", "area", "bbox", "segmentation", "track_id", "gap_s")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    BBOX_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    TRACK_ID_FIELD_NUMBER: _ClassVar[int]
    GAP_S_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    area: int
    bbox: Box
    segmentation: Rle
    track_id: int
    gap_s: float
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ..., area: _Optional[int] = ..., bbox: _Optional[_Union[Box, _Mapping]] = ..., segmentation: _Optional[_Union[Rle, _Mapping]] = ..., track_id: _Optional[int] = ..., gap_s: _Optional[float] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x", "y", "width", "height")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    x: int
    y: int
    width: int
    height: int
    def __init__(self, x: _Optional[int] = ..., y: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Rle(_message.Message):
    __slots__ = ("height", "width", "counts")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    counts: bytes
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., counts: _Optional[bytes] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("num_samples", "timings_s", "cached", "audio_notes")
    class TimingsSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_S_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    AUDIO_NOTES_FIELD_NUMBER: _ClassVar[int]
    num_samples: int
    timings_s: _containers.ScalarMap[str, float]
    cached: bool
    audio_notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, num_samples: _Optional[int] = ..., timings_s: _Optional[_Mapping[str, float]] = ..., cached: _Optional[bool] = ..., audio_notes: _Optional[_Iterable[str]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("variant", "checkpoint", "labels", "input_height", "input_width", "world_version", "offset_lag_s")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    WORLD_VERSION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_LAG_S_FIELD_NUMBER: _ClassVar[int]
    variant: str
    checkpoint: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    input_height: int
    input_width: int
    world_version: int
    offset_lag_s: float
    def __init__(self, variant: _Optional[str] = ..., checkpoint: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., input_height: _Optional[int] = ..., input_width: _Optional[int] = ..., world_version: _Optional[int] = ..., offset_lag_s: _Optional[float] = ...) -> None: ...

class LiveRequest(_message.Message):
    __slots__ = ("options", "frame", "audio")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    options: LiveOptions
    frame: LiveFrame
    audio: AudioChunk
    def __init__(self, options: _Optional[_Union[LiveOptions, _Mapping]] = ..., frame: _Optional[_Union[LiveFrame, _Mapping]] = ..., audio: _Optional[_Union[AudioChunk, _Mapping]] = ...) -> None: ...

class LiveOptions(_message.Message):
    __slots__ = ("threshold", "size", "labels", "max_audio_wait_s", "max_waiting_frames", "event_onset", "event_offset", "event_gap_s", "event_min_s", "instances")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MAX_AUDIO_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_FRAMES_FIELD_NUMBER: _ClassVar[int]
    EVENT_ONSET_FIELD_NUMBER: _ClassVar[int]
    EVENT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    EVENT_GAP_S_FIELD_NUMBER: _ClassVar[int]
    EVENT_MIN_S_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    size: MaskSize
    labels: _containers.RepeatedScalarFieldContainer[str]
    max_audio_wait_s: float
    max_waiting_frames: int
    event_onset: float
    event_offset: float
    event_gap_s: float
    event_min_s: float
    instances: bool
    def __init__(self, threshold: _Optional[float] = ..., size: _Optional[_Union[MaskSize, str]] = ..., labels: _Optional[_Iterable[str]] = ..., max_audio_wait_s: _Optional[float] = ..., max_waiting_frames: _Optional[int] = ..., event_onset: _Optional[float] = ..., event_offset: _Optional[float] = ..., event_gap_s: _Optional[float] = ..., event_min_s: _Optional[float] = ..., instances: _Optional[bool] = ...) -> None: ...

class LiveFrame(_message.Message):
    __slots__ = ("timestamp_s", "data", "format", "width", "height")
    TIMESTAMP_S_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    timestamp_s: float
    data: bytes
    format: PixelFormat
    width: int
    height: int
    def __init__(self, timestamp_s: _Optional[float] = ..., data: _Optional[bytes] = ..., format: _Optional[_Union[PixelFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class AudioChunk(_message.Message):
    __slots__ = ("timestamp_s", "pcm_s16le", "sample_rate_hz")
    TIMESTAMP_S_FIELD_NUMBER: _ClassVar[int]
    PCM_S16LE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    timestamp_s: float
    pcm_s16le: bytes
    sample_rate_hz: int
    def __init__(self, timestamp_s: _Optional[float] = ..., pcm_s16le: _Optional[bytes] = ..., sample_rate_hz: _Optional[int] = ...) -> None: ...

class LiveResponse(_message.Message):
    __slots__ = ("model", "frame", "frame_error", "event", "heartbeat")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    FRAME_ERROR_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    model: ModelInfo
    frame: LiveFrameMasks
    frame_error: FrameError
    event: SoundEvent
    heartbeat: Heartbeat
    def __init__(self, model: _Optional[_Union[ModelInfo, _Mapping]] = ..., frame: _Optional[_Union[LiveFrameMasks, _Mapping]] = ..., frame_error: _Optional[_Union[FrameError, _Mapping]] = ..., event: _Optional[_Union[SoundEvent, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class LiveFrameMasks(_message.Message):
    __slots__ = ("masks", "latency_s", "num_dropped_frames")
    MASKS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    NUM_DROPPED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    masks: FrameMasks
    latency_s: float
    num_dropped_frames: int
    def __init__(self, masks: _Optional[_Union[FrameMasks, _Mapping]] = ..., latency_s: _Optional[float] = ..., num_dropped_frames: _Optional[int] = ...) -> None: ...

class FrameError(_message.Message):
    __slots__ = ("timestamp_s", "code", "detail")
    TIMESTAMP_S_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    timestamp_s: float
    code: str
    detail: str
    def __init__(self, timestamp_s: _Optional[float] = ..., code: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...
