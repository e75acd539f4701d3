"""Bad uploads, made on the spot: each with the code that it must be answered with (ingest: never worse than that)."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from support.inputs.clips import make_clip

Patch = Callable[[bytes], bytes]


@dataclass(frozen=True)
class BadFile:
    """A bad upload and the codes that are right for it (`ok`: it may also decode)."""

    name: str
    data: bytes
    codes: frozenset[str]


def box(kind: str, body: bytes = b"") -> bytes:
    """An MP4 box."""
    return struct.pack(">I4s", 8 + len(body), kind.encode("latin-1")) + body


@cache
def base_clip() -> bytes:
    """A sound clip with its index first: 25 frames, one second."""
    return make_clip(num_frames=25, movflags="faststart")


@cache
def tail_clip() -> bytes:
    """The same with its index last."""
    return make_clip(num_frames=25)


@cache
def fragmented_clip() -> bytes:
    """The same in fragments."""
    return make_clip(num_frames=50, gop=10, movflags="frag_keyframe+empty_moov+default_base_moof")


def find(data: bytes, kind: str, number: int = 0) -> int:
    """Where the body of the box `kind` begins (the n-th one; picture tables come before sound tables)."""
    at = -1
    for _ in range(number + 1):
        at = data.index(kind.encode("latin-1"), at + 1)
    return at + 4


def patch(data: bytes, at: int, new: bytes) -> bytes:
    """The data with `new` written over it at `at`."""
    return data[:at] + new + data[at + len(new) :]


def put32(data: bytes, kind: str, offset: int, value: int, number: int = 0) -> bytes:
    """The data with a 32-bit field of a box's body set."""
    return patch(data, find(data, kind, number) + offset, struct.pack(">I", value))


def rename(data: bytes, kind: str, new: str, number: int = 0) -> bytes:
    """The data with a box's kind changed (its tables are then missing)."""
    return patch(data, find(data, kind, number) - 4, new.encode("latin-1"))


def without_media(data: bytes) -> bytes:
    """The data with its mdat box taken out."""
    at = find(data, "mdat") - 8
    size = struct.unpack(">I", data[at : at + 4])[0]
    return data[:at] + data[at + size :]


def replace_box(data: bytes, kind: str, body: bytes, number: int = 0) -> bytes:
    """The data with another body in a box; the boxes around it are resized, chunk offsets are left as they are."""
    at = find(data, kind, number) - 8
    old = struct.unpack(">I", data[at : at + 4])[0]
    change = 8 + len(body) - old
    out = bytearray(data[:at] + box(kind, body) + data[at + old :])
    for start in _parents(data, at):
        size = struct.unpack(">I", out[start : start + 4])[0]
        out[start : start + 4] = struct.pack(">I", size + change)
    return bytes(out)


def _parents(data: bytes, target: int) -> list[int]:
    """Starts of the container boxes around a position."""
    found, at, end = [], 0, len(data)
    while at < end:
        size = struct.unpack(">I", data[at : at + 4])[0]
        if at < target < at + size:
            found.append(at)
            at, end = at + 8, at + size
        else:
            at += size
    return found


def not_mp4_files() -> Iterator[BadFile]:
    """Uploads of another kind."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("clip.mp4", b"x" * 100)
    noise = bytes((i * 7919 + (i >> 3) * 104729) % 251 for i in range(100_000))
    bodies = {
        "one_byte": b"\0",
        "noise_1k": noise[:1000],
        "noise_100k": noise,
        "zeros": bytes(10_000),
        "text": b"this is not a video\n" * 50,
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "json_deep": b"[" * 100_000,
        "zip": archive.getvalue(),
        "gzip": b"\x1f\x8b\x08\0" + zlib.compress(b"x" * 100),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(100),
        "pdf": b"%PDF-1.7\n" + bytes(100),
        "wav": b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(100),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100),
        "avi": b"RIFF" + struct.pack("<I", 100) + b"AVI LIST" + bytes(100),
        "matroska": b"\x1aE\xdf\xa3" + bytes(100),
        "flv": b"FLV\x01\x05\0\0\0\x09" + bytes(100),
        "mpeg_ts": (b"G\x40\0\x10" + bytes(184)) * 20,
        "h264_raw": b"\0\0\0\x01\x67\x42\0\x1e" + bytes(100),
        "hls_file": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "hls_http": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "ffconcat": b"ffconcat version 1.0\nfile canary.mp4\n",
        "ffconcat_absolute": b"ffconcat version 1.0\nfile /tmp/canary.mp4\n",
        "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
        "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        "srt": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        "avif": box("ftyp", b"avif\0\0\0\0avifmif1") + box("meta", bytes(100)),
    }
    yield BadFile("empty", b"", frozenset({"empty_file"}))
    for name, data in bodies.items():
        yield BadFile(name, data, frozenset({"not_mp4"}))


def codec_files() -> Iterator[BadFile]:
    """MP4 files whose tracks are not taken."""
    data = base_clip()
    wanted = frozenset({"unsupported_codec"})
    yield BadFile("tag_unknown", rename(data, "avc1", "zzzz", 1), wanted)
    for tag in ("jpeg", "png ", "apcn", "M8RG", "cvid", "rle "):
        yield BadFile(f"tag_{tag.strip()}", rename(data, "avc1", tag, 1), wanted)
    for codec, pixel_format in (("mjpeg", "yuvj420p"), ("png", "rgb24"), ("magicyuv", "gbrp"), ("qtrle", "rgb24")):
        clip = make_clip(codec=codec, pixel_format=pixel_format, num_frames=3, container="mov")
        yield BadFile(f"codec_{codec}", clip, wanted)
    yield BadFile("sound_tag_unknown", rename(data, "mp4a", "zzzz"), wanted)
    yield BadFile("encrypted_picture", rename(data, "avc1", "encv", 1), frozenset({"encrypted"}))
    yield BadFile("encrypted_sound", rename(data, "mp4a", "enca"), frozenset({"encrypted"}))
    yield BadFile("no_sound_track", make_clip(sound=None), frozenset({"no_audio"}))
    yield BadFile("no_picture_track", rename(rename(data, "vide", "soun"), "vmhd", "smhd"), frozenset({"no_video"}))
    yield BadFile("text_tracks_only", data.replace(b"vide", b"text").replace(b"soun", b"text"), frozenset({"no_video"}))
    external = put32(data, "url ", 0, 0)
    yield BadFile("external_data", external, frozenset({"external_data"}))
    # HEVC tag over an AVC configuration: nothing comes out
    yield BadFile("tag_wrong", rename(data, "avc1", "hvc1", 1), frozenset({"no_frames", "broken"}))
    yield BadFile("configuration_missing", rename(data, "avcC", "free"), frozenset({"no_frames", "broken"}))


def shell_files() -> Iterator[BadFile]:
    """MP4 files without an index or without media."""
    data = base_clip()
    moov_end = find(data, "mdat") - 8
    shell = frozenset({"no_moov", "no_video", "no_frames"})
    yield BadFile("ftyp_only", data[: find(data, "moov") - 8], shell)
    yield BadFile("polyglot", data[:32] + b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/\n" * 5, shell)
    yield BadFile("no_moov", rename(data, "moov", "free"), shell)
    yield BadFile("no_mdat", data[:moov_end], shell | {"truncated"})
    yield BadFile("mdat_taken_out", without_media(data), shell | {"truncated"})
    yield BadFile("empty_moov", box("ftyp", b"isom\0\0\2\0isom") + box("moov") + box("mdat", bytes(100)), shell)
    yield BadFile("init_segment", fragmented_clip()[: find(fragmented_clip(), "moof") - 8], shell)
    yield BadFile("media_segment", fragmented_clip()[find(fragmented_clip(), "moof") - 8 :], shell)
    no_samples = put32(put32(put32(data, "stts", 4, 0), "stsz", 8, 0), "stsc", 4, 0)
    yield BadFile("zero_samples", put32(no_samples, "stco", 4, 0), shell | {"broken"})
    start = find(data, "mdat")
    yield BadFile("mdat_zeros", patch(data, start, bytes(len(data) - start)), shell)
    noise = bytes((i * 7919) % 251 for i in range(len(data) - start))
    yield BadFile("mdat_noise", patch(data, start, noise), shell)
    yield BadFile("mdat_text", patch(data, start, (b"hello world " * 9999)[: len(data) - start]), shell)


def cut_files() -> Iterator[BadFile]:
    """Files that end before their media do."""
    for name, data in (("last", tail_clip()), ("first", base_clip()), ("fragmented", fragmented_clip())):
        for percent in (10, 50, 90, 99):
            codes = {"truncated"} | ({"no_audio", "no_moov"} if percent == 10 else set())
            yield BadFile(f"cut_{name}_{percent}", data[: len(data) * percent // 100], frozenset(codes))
    data = base_clip()
    yield BadFile("offsets_past_end", put32(data, "stco", 8, 0x7FFFFFFF), frozenset({"truncated"}))
    grown = put32(data, "stsz", 12, 0x00FFFFFF)
    yield BadFile("sample_past_end", grown, frozenset({"truncated", "broken"}))


def broken_files() -> Iterator[BadFile]:
    """Files whose structure contradicts itself."""
    data = base_clip()
    wanted = frozenset({"broken"})
    for kind in ("stsd", "stts", "stsc", "stsz", "stco"):
        yield BadFile(f"missing_{kind}", rename(data, kind, "free"), wanted)
    yield BadFile("stsd_empty", put32(data, "stsd", 4, 0), wanted)
    yield BadFile("stsd_many", put32(data, "stsd", 4, 0xFFFFFFFF), wanted)
    for kind in ("stts", "stsc", "stco", "ctts"):
        yield BadFile(f"count_{kind}", put32(data, kind, 4, 0xFFFFFFFF), wanted)
    yield BadFile("count_stsz", put32(data, "stsz", 8, 0xFFFFFFFF), wanted)
    for value in (1, 4, 0xFFFFFFFF):
        at = find(data, "trak") - 8
        yield BadFile(f"trak_size_{value}", patch(data, at, struct.pack(">I", value)), wanted)
    at = find(data, "moov") - 8
    yield BadFile("moov_size_4", patch(data, at, struct.pack(">I", 4)), wanted)
    yield BadFile("moov_size_huge", patch(data, at, struct.pack(">I", 0xFFFFFF00)), wanted | {"truncated"})
    moov_noise = bytes((i * 7919) % 251 for i in range(500))
    yield BadFile("moov_noise", patch(data, find(data, "moov"), moov_noise), wanted)
    long_size = data[:at] + struct.pack(">I4sQ", 1, b"moov", 2**64 - 1) + data[at + 8 :]
    yield BadFile("moov_size_2_64", long_size, wanted | {"truncated"})
    nested = b""
    for _ in range(5000):
        nested = struct.pack(">I4s", 8 + len(nested), b"udta") + nested
    head, media = data[:at], data[find(data, "mdat") - 8 :]
    yield BadFile("nested_5000", head + box("moov", nested) + media, wanted)
    yield BadFile("boxes_100k", head + box("free") * 100_000 + data[at:], wanted)
    yield BadFile("boxes_inside_100k", head + box("moov", box("free") * 100_000) + media, wanted)
    moov = data[at : find(data, "mdat") - 8]
    yield BadFile("moov_201", head + moov * 201 + media, wanted)
    packed = zlib.compress(moov)
    cmov = box("cmov", box("dcom", b"zlib") + box("cmvd", struct.pack(">I", 1 << 30) + packed))
    yield BadFile("moov_compressed", head + box("moov", cmov) + media, wanted)
    edits = struct.pack(">II", 0, 1_000_000) + struct.pack(">III", 1, 0, 0x10000) * 1_000_000
    yield BadFile("edits_million", replace_box(data, "elst", edits), wanted)
    yield BadFile("stsc_huge", put32(data, "stsc", 12, 0xFFFFFFFF), wanted)
    yield BadFile("stsc_zero_chunk", put32(data, "stsc", 8, 0), wanted)
    yield BadFile("timescale_0", put32(data, "mdhd", 12, 0), wanted)
    yield BadFile("timescale_1", put32(data, "mdhd", 12, 1), wanted | {"too_long"})
    yield BadFile("timescale_huge", put32(data, "mdhd", 12, 0xFFFFFFFF), wanted | {"too_many_frames"})
    yield BadFile("movie_timescale_0", put32(data, "mvhd", 12, 0), wanted)
    yield BadFile("delta_negative", put32(data, "stts", 12, 0xFFFFFF00), wanted)
    yield BadFile("delta_zero", put32(data, "stts", 12, 0), wanted)
    yield BadFile("shown_days_later", put32(data, "ctts", 12, 0x7FFFFFFF), wanted)
    fragmented = fragmented_clip()
    yield BadFile("trun_count", put32(fragmented, "trun", 4, 0xFFFFFFFF), wanted | {"too_many_frames"})


def bomb_files() -> Iterator[BadFile]:
    """Small files that ask for much: time, frames, pixels, tracks."""
    data = base_clip()
    yield BadFile("header_50_days", put32(data, "mdhd", 16, 0xFFFFFFF0), frozenset({"too_long"}))
    yield BadFile("movie_50_days", put32(data, "mvhd", 16, 0xFFFFFFF0), frozenset({"too_long"}))
    yield BadFile("frame_for_days", put32(data, "stts", 12, 0x7FFFFFFF), frozenset({"too_long"}))
    stsz = struct.pack(">III", 0, 1, 200_000_000)
    yield BadFile("samples_200m", replace_box(data, "stsz", stsz), frozenset({"too_many_frames"}))
    yield BadFile("same_bytes_100k", _overlap(data, 100_000), frozenset({"too_many_frames", "too_long"}))
    yield BadFile("same_bytes_5k", _overlap(data, 5000), frozenset({"broken"}))
    stts = struct.pack(">IIII", 0, 1, 5000, 1)
    fast = replace_box(_overlap(data, 5000), "stts", stts)
    yield BadFile("fps_100k", put32(fast, "mdhd", 12, 100_000), frozenset({"too_many_frames"}))
    yield BadFile("sound_1_hz", put32(data, "mdhd", 12, 1, 1), frozenset({"too_long"}))
    sized = patch(data, find(data, "avc1", 1) + 24, struct.pack(">HH", 16_000, 16_000))
    yield BadFile("picture_16000", sized, frozenset({"picture_too_large"}))
    large = make_clip(width=4096, height=4096, num_frames=1, flash_frames=frozenset({0}))  # all white: quickly made
    yield BadFile("picture_4096", large, frozenset({"picture_too_large"}))
    lying = patch(large, find(large, "avc1", 1) + 24, struct.pack(">HH", 320, 240))
    yield BadFile("picture_lies", lying, frozenset({"picture_too_large"}))
    at = find(data, "trak") - 8
    size = struct.unpack(">I", data[at : at + 4])[0]
    many = data[at : at + size] * 200
    moov = find(data, "moov") - 8
    moov_size = struct.unpack(">I", data[moov : moov + 4])[0] + len(many)
    packed = patch(data[:at] + many + data[at:], moov, struct.pack(">I", moov_size))
    yield BadFile("tracks_200", packed, frozenset({"too_many_streams"}))
    fragmented = fragmented_clip()
    late = patch(fragmented, find(fragmented, "tfdt") + 4, struct.pack(">Q", 1 << 50))
    yield BadFile("fragment_in_years", late, frozenset({"too_long"}))


def odd_files() -> Iterator[BadFile]:
    """Contradictions that may be answered with masks or with an error of the clip, never with anything worse."""
    data = base_clip()
    lenient = frozenset({"ok", "broken", "no_frames", "truncated"})
    yield BadFile("no_key_frames", put32(data, "stss", 4, 0), lenient)
    zero = patch(data, find(data, "avc1", 1) + 24, bytes(4))
    yield BadFile("stsd_0x0", zero, lenient)
    yield BadFile("edit_past_end", put32(data, "elst", 12, 0x0FFFFFFF), lenient | {"too_long"})
    yield BadFile("sound_edit_past_end", put32(data, "elst", 12, 0x0FFFFFFF, 1), lenient)
    yield BadFile("avcc_noise", patch(data, find(data, "avcC") + 8, bytes(range(20))), lenient)
    yield BadFile("garbage_behind", data + b"garbage after the end" * 10, lenient)
    yield BadFile("zeros_behind", data + bytes(1000), lenient)


def _overlap(data: bytes, num: int) -> bytes:
    """A file whose index shows the first frame `num` times."""
    at = find(data, "stsz")
    size = struct.unpack(">I", data[at + 12 : at + 16])[0]
    data = replace_box(data, "stsz", struct.pack(">III", 0, 0, num) + struct.pack(">I", size) * num)
    data = replace_box(data, "stts", struct.pack(">IIII", 0, 1, num, 64))
    offset = struct.pack(">I", find(data, "mdat"))
    data = replace_box(data, "stco", struct.pack(">II", 0, num) + offset * num)
    return replace_box(data, "stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1))


@cache
def hostile_corpus() -> list[BadFile]:
    """Every bad file."""
    makers = (
        not_mp4_files,
        codec_files,
        shell_files,
        cut_files,
        broken_files,
        bomb_files,
        odd_files,
    )
    return [bad for maker in makers for bad in maker()]
