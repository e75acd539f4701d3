"""The decoded clip of one request, as its caller sees it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The sound track that was used."""

    track: int = field(metadata={"description": "Index among the sound tracks of the file, from 0."})
    codec: str = field(metadata={"description": "Codec by FFmpeg's name, such as `aac`."})
    channels: int = field(metadata={"description": "Channels as coded, before mixing down."})
    sample_rate_hz: int = field(metadata={"description": "Sample rate as coded, before resampling."})
    language: str | None = field(
        default=None, metadata={"description": "ISO 639-2 code of three letters; null where the file has none."}
    )
    notes: tuple[str, ...] | None = field(
        default=None,
        metadata={
            "description": "What is unusual about the sound of the samples: `antiphase` (the channels cancel out, so "
            "one of them was used), `clipped`, `silent` (all of it). Null in the first line of a streamed answer; see "
            "`audio_notes` of its end."
        },
    )


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """Description of the decoded upload.

    A streamed answer starts before the whole file is known, so duration, rate and number of samples may be null.
    """

    width: int = field(metadata={"description": "Display width in pixels: after crop and rotation, without aspect."})
    height: int = field(metadata={"description": "Display height in pixels."})
    sample_aspect_ratio: str = field(metadata={"description": 'Shape of a pixel, such as "1:1" or "4:3".'})
    duration_s: float | None = field(metadata={"description": "Length of the picture track in seconds."})
    frame_rate: float | None = field(metadata={"description": "Mean frames per second."})
    num_samples: int | None = field(metadata={"description": "Number of frames in the answer."})
    audio: AudioInfo | None = field(
        default=None, metadata={"description": "The sound track; null in answers stored by earlier versions."}
    )
