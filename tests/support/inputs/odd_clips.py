"""Good uploads that are odd in one way each: a service that refuses one of them is wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction

from support.inputs.clips import ClipSpec, make_clip
from support.inputs.hostile import find, patch, replace_box
from support.inputs.untold_depth import without_depth

from service.bench.hearing.rotation import rotated


def edited(data: bytes, edits: list[tuple[int, int]], *, number: int = 0) -> bytes:
    """The clip with another edit list: (duration in movie ticks, media time in track ticks, -1 for an empty edit)."""
    rows = b"".join(struct.pack(">IiI", duration, media, 0x10000) for duration, media in edits)
    return replace_box(data, "elst", struct.pack(">II", 0, len(edits)) + rows, number)


def with_entry_box(data: bytes, extra: bytes) -> bytes:
    """The clip, whose index comes first, with one more box in the sample entry of its picture."""
    entry = find(data, "stsd") + 8
    end = entry + struct.unpack_from(">I", data, entry)[0]
    tables = [find(data, "stco", number) for number in range(2)]
    for at in [entry, *(find(data, kind) - 8 for kind in ("moov", "trak", "mdia", "minf", "stbl", "stsd"))]:
        data = patch(data, at, struct.pack(">I", struct.unpack_from(">I", data, at)[0] + len(extra)))
    for at in tables:
        num = struct.unpack_from(">I", data, at + 4)[0]
        chunks = struct.unpack_from(f">{num}I", data, at + 8)
        data = patch(data, at + 8, struct.pack(f">{num}I", *(chunk + len(extra) for chunk in chunks)))
    return data[:end] + extra + data[end:]


def _uneven(num: int) -> list[int]:
    """Presentation ticks at 12 800 a second with steps between 20 and 140 ms."""
    ticks, at = [], 0
    for number in range(num):
        ticks.append(at)
        at += 256 + (number * 7919) % 1536
    return ticks


# From the box type of a version 0 `tkhd` to its matrix (ISO/IEC 14496-12, 8.3.2).
_MATRIX_AT = 40


def with_matrix(data: bytes, matrix: tuple[int, int, int, int], *, scale: int = 1 << 16) -> bytes:
    """The clip with another display matrix (a, b, c, d) of its picture, in 16.16 fixed point with the usual scale."""
    a, b, c, d = (value * scale for value in matrix)
    return patch(data, find(data, "tkhd") + _MATRIX_AT, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))


def _hdr(transfer: str) -> dict[str, str]:
    """Options of x265 for a picture of BT.2020 with this transfer function."""
    colours = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    return {"preset": "ultrafast", "x265-params": f"log-level=none:pools=1:{colours}"}


ODD_SPECS: dict[str, ClipSpec] = {
    "plain": ClipSpec(),
    "no_b_frames": ClipSpec(b_frames=0),
    "many_b_frames": ClipSpec(b_frames=5, codec_options={"b-pyramid": "normal", "preset": "veryfast"}),
    "open_gop": ClipSpec(codec_options={"x264-params": "open-gop=1:keyint=12:min-keyint=12", "preset": "veryfast"}),
    "all_key": ClipSpec(gop=1, b_frames=0),
    "one_key": ClipSpec(gop=250, num_frames=75),
    "variable_rate": ClipSpec(frame_ticks=_uneven(50), num_frames=50),
    "late_first_frame": ClipSpec(frame_ticks=[6400 + 512 * n for n in range(50)]),
    "ntsc": ClipSpec(fps=Fraction(30000, 1001), num_frames=60),
    "slow": ClipSpec(fps=Fraction(1, 2), num_frames=4),
    "fast": ClipSpec(fps=120, num_frames=150),
    "one_frame": ClipSpec(num_frames=1),
    "index_first": ClipSpec(movflags="faststart"),
    "fragmented": ClipSpec(movflags="frag_keyframe+empty_moov+default_base_moof", gop=10),
    "fragment_per_frame": ClipSpec(movflags="frag_every_frame+empty_moov"),
    "fragmented_late_index": ClipSpec(movflags="frag_keyframe+delay_moov", gop=10),
    "separate_moof": ClipSpec(movflags="frag_keyframe+empty_moov+separate_moof", gop=10),
    "tiny": ClipSpec(width=16, height=16),
    "wide": ClipSpec(width=2000, height=32, num_frames=30),
    "tall": ClipSpec(width=32, height=720, num_frames=30),
    "odd_size_444": ClipSpec(width=63, height=47, pixel_format="yuv444p"),
    "ten_bit": ClipSpec(pixel_format="yuv420p10le"),
    "four_two_two": ClipSpec(pixel_format="yuv422p"),
    "full_range": ClipSpec(pixel_format="yuvj420p"),
    "interlaced": ClipSpec(codec_options={"x264-params": "interlaced=1"}),
    "hevc": ClipSpec(codec="libx265", codec_options={"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}),
    "hlg": ClipSpec(codec="libx265", pixel_format="yuv420p10le", codec_options=_hdr("arib-std-b67"), num_frames=30),
    "pq": ClipSpec(codec="libx265", pixel_format="yuv420p10le", codec_options=_hdr("smpte2084"), num_frames=30),
    "vp9": ClipSpec(codec="libvpx-vp9", codec_options={"deadline": "realtime", "cpu-used": "8"}, num_frames=30),
    "av1": ClipSpec(codec="libsvtav1", codec_options={"preset": "12", "svtav1-params": "lp=1"}, num_frames=30),
    "mpeg4": ClipSpec(codec="mpeg4"),
    "mov": ClipSpec(container="mov"),
    "mov_pcm": ClipSpec(container="mov", sound="pcm_s16le"),
    "mov_pcm_24": ClipSpec(container="mov", sound="pcm_s24le", sound_rate_hz=44_100),
    "mp3": ClipSpec(sound="libmp3lame", sound_rate_hz=44_100),
    "opus": ClipSpec(sound="libopus"),
    "flac": ClipSpec(sound="flac"),
    "alac": ClipSpec(sound="alac"),
    "ac3": ClipSpec(sound="ac3"),
    "mono_8k": ClipSpec(sound_rate_hz=8000, sound_layout="mono"),
    "mono_16k": ClipSpec(sound_rate_hz=16_000, sound_layout="mono"),
    "sound_96k": ClipSpec(sound_rate_hz=96_000),
    "surround": ClipSpec(sound="ac3", sound_layout="5.1"),
    "sound_late": ClipSpec(sound_start_s=0.7),
    "sound_ends_early": ClipSpec(sound_end_s=0.5),
    "sound_longer": ClipSpec(sound_end_s=4.0),
}
# B-frames of B-frames from the start, so that a decoder that holds back one picture puts out others too early.
_DEEP = ClipSpec(
    b_frames=5, num_frames=60, gop=10, codec_options={"preset": "medium", "x264-params": "b-adapt=0:b-pyramid=normal"}
)
_ODD_PATCHES: dict[str, Callable[[], bytes]] = {
    "turned_90": lambda: rotated(make_clip(), 90),
    "turned_180": lambda: rotated(make_clip(), 180),
    "turned_270": lambda: rotated(make_clip(), 270),
    "mirrored": lambda: with_matrix(make_clip(), (-1, 0, 0, 1)),
    "transposed": lambda: with_matrix(make_clip(), (0, 1, 1, 0)),
    "trimmed_front": lambda: edited(make_clip(), [(1000, 512 * 12)]),
    "trimmed_front_all_key": lambda: edited(make_clip(gop=1, b_frames=0), [(1000, 512 * 12)]),
    "empty_edit": lambda: edited(make_clip(b_frames=0), [(500, -1), (2000, 0)]),
    "untold_depth": lambda: without_depth(make_clip(_DEEP)),
    "untold_depth_fragmented": lambda: without_depth(make_clip(_DEEP, movflags="frag_keyframe+empty_moov")),
    "two_edits": lambda: edited(make_clip(), [(500, 512 * 5), (500, 512 * 30)]),
}


def odd_clip_names() -> list[str]:
    """Every odd clip's name."""
    return [*ODD_SPECS, *_ODD_PATCHES]


def odd_clip(name: str) -> bytes:
    """The clip of this name."""
    return make_clip(ODD_SPECS[name]) if name in ODD_SPECS else _ODD_PATCHES[name]()
