"""Limits of uploads as one frozen value, and the accepted codecs as closed lists."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.domain.options import AppliedOptions

# Sample entry (fourcc) -> FFmpeg codec of the seven picture codecs that are accepted (of the 539 that FFmpeg has).
PICTURE_TAGS: dict[str, str] = {
    **dict.fromkeys(("avc1", "avc3", "x264", "h264", "H264", "dva1", "dvav"), "h264"),
    **dict.fromkeys(("hvc1", "hev1", "dvh1", "dvhe", "hvt1"), "hevc"),
    "av01": "av1",
    "vp08": "vp8",
    "vp09": "vp9",
    **dict.fromkeys(("mp4v", "XVID", "DIVX", "xvid"), "mpeg4"),
    **dict.fromkeys(("s263", "h263", "H263"), "h263"),
}

# Sample entry (fourcc) -> FFmpeg codec of the accepted sound codecs; `pcm` stands for the plain PCM family.
SOUND_TAGS: dict[str, str] = {
    "mp4a": "aac",
    ".mp3": "mp3",
    "ms\x00U": "mp3",
    "Opus": "opus",
    "fLaC": "flac",
    "alac": "alac",
    "ac-3": "ac3",
    "ec-3": "eac3",
    "samr": "amr_nb",
    "sawb": "amr_wb",
    "alaw": "pcm_alaw",
    "ulaw": "pcm_mulaw",
    **dict.fromkeys(("sowt", "twos", "lpcm", "raw ", "in24", "in32", "fl32", "fl64", "ipcm", "fpcm", "NONE"), "pcm"),
}

PCM_DECODERS = tuple(
    [
        "pcm_u8",
        "pcm_s8",
        "pcm_s16le",
        "pcm_s16be",
        "pcm_s24le",
        "pcm_s24be",
        "pcm_s32le",
        "pcm_s32be",
        "pcm_f32le",
        "pcm_f32be",
        "pcm_f64le",
        "pcm_f64be",
        "pcm_alaw",
        "pcm_mulaw",
    ]
)
PICTURE_DECODERS = ("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "mpeg4", "h263")
# Names that FFmpeg's `codec_whitelist` and our own check before the first decode accept.
SOUND_DECODERS = (
    *("aac", "mp3", "mp3float", "opus", "libopus", "flac", "alac", "ac3", "eac3"),
    *("amrnb", "amrwb", "amr_nb", "amr_wb"),
    *PCM_DECODERS,
)


@dataclass(frozen=True, slots=True)
class MediaPolicy:
    """Limits of decoding one upload. Each rejection names the limit.

    Attributes:
        max_clip_s: longest picture or sound track, seconds; `grace_s` is added before refusing.
        max_pixels: most pixels of a coded picture.
        max_samples: most samples (frames of the answer) of a request.
        max_frames: most coded pictures of a file (default: 600 s at 120 frames per second).
        max_tracks, max_boxes, max_depth, max_fragments, max_edits, max_index_bytes: limits of the MP4 structure. The
            index (moov) of a ten-minute clip is well under 2 MB; QuickTime nests about 7 deep.
        memory_bytes: largest address space of a decoder child.
        granted_bytes: memory that each child has from the start; it requests more.
        max_growing_bytes: most memory of a child whose upload is still arriving, which may hold it for long.
        max_total_bytes: estimated memory of all children that decode; a child beyond it waits.
        max_cpu_s: largest CPU budget of a decoder child, whatever the estimate.
        progress_s: longest wall time without a message of the child, while the reader waits for one.
        max_wall_s: longest total wall time that a reader waits for its child.
    """

    max_clip_s: float = 600.0
    max_pixels: int = 4096 * 2304
    max_samples: int = 18_000
    grace_s: float = 1.0
    max_frames: int = 72_000
    max_tracks: int = 16
    max_boxes: int = 20_000
    max_depth: int = 8
    max_fragments: int = 50_000
    max_edits: int = 1000
    max_index_bytes: int = 32 * 1024**2
    memory_bytes: int = 2 * 1024**3
    granted_bytes: int = 64 * 1024**2
    max_growing_bytes: int = 128 * 1024**2
    max_total_bytes: int = 4 * 1024**3
    max_cpu_s: float = 900.0
    progress_s: float = 30.0
    max_wall_s: float = 3600.0

    def for_length(self, max_clip_s: float) -> MediaPolicy:
        """Return the policy for clips of another length. What a clip costs by its length grows in proportion."""
        scale = max(1.0, max_clip_s / self.max_clip_s)
        return replace(
            self,
            max_clip_s=max_clip_s,
            max_frames=round(self.max_frames * scale),
            max_cpu_s=self.max_cpu_s * scale,
            max_wall_s=self.max_wall_s * scale,
        )

    @property
    def max_coded_pixels(self) -> int:
        """Return the limit for FFmpeg, which rounds coded sizes up to blocks of up to 128. Our own check is exact."""
        return self.max_pixels + self.max_pixels // 8 + 128 * 128

    @property
    def longest_s(self) -> float:
        """Return the clip limit with its grace, in seconds."""
        return self.max_clip_s + self.grace_s


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What to decode of an upload: options as applied and the model's input size in pixels.

    `is_job` says that the limits of jobs apply. `heard_from_s` is explained at `DecodeJob`.
    """

    options: AppliedOptions
    frame_height: int
    frame_width: int
    is_job: bool = False
    heard_from_s: float | None = None


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """Job of a decoder child: sampling, frame size, limits. Plain values, sent as JSON.

    `fps` None means native, `end_s` None the end of the clip, `audio_track` None the enabled default sound track.
    `size_bytes` is the size of the upload at the start; `is_complete` whether that is all of it. `heard_from_s` is
    where the samples begin that the notes on the sound are about: before `start_s` where an answer is continued.
    """

    fps: float | None
    start_s: float
    end_s: float | None
    frame_height: int
    frame_width: int
    policy: MediaPolicy
    audio_track: int | None = None
    size_bytes: int = 0
    is_complete: bool = True
    heard_from_s: float | None = None
