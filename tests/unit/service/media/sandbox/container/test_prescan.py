"""The pre-scan: what it finds in good files, what it refuses, and that it never does anything else."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.inputs.clips import make_clip
from support.inputs.hostile import base_clip, box, find, fragmented_clip, hostile_corpus, put32, tail_clip

from service.domain.errors import ServiceError
from service.media.policy import MediaPolicy
from service.media.sandbox.container.prescan import Scanner
from service.media.sandbox.source import UploadSource

BY_STRUCTURE = frozenset(
    {"empty_file", "not_mp4", "no_moov", "encrypted", "truncated", "external_data", "too_many_streams", "too_long"}
)


def scan(data: bytes, *, policy: MediaPolicy | None = None) -> Scanner:
    """Walk a complete upload to its end."""
    fd = os.memfd_create("scan")
    try:
        os.write(fd, data)
        source = UploadSource(fd, size_bytes=len(data), is_complete=True, need=lambda _: (len(data), True))
        scanner = Scanner(source, policy or MediaPolicy())
        scanner.head()
        scanner.rest()
        return scanner
    finally:
        os.close(fd)


@pytest.mark.parametrize(("maker", "is_streamable"), [(base_clip, True), (tail_clip, False), (fragmented_clip, True)])
def test_tracks_are_found(maker: Callable[[], bytes], is_streamable: bool) -> None:
    scanner = scan(maker())
    index = scanner.head()
    assert (index.picture.track_id, index.sound.track_id) == (1, 2)
    assert (index.picture.width, index.picture.height) == (64, 48)
    assert (index.picture.tags, index.sound.tags) == (["avc1"], ["mp4a"])
    assert scanner.is_streamable == is_streamable


def test_the_index_tells_times_and_frames() -> None:
    picture = scan(base_clip()).head().picture
    assert picture.num_samples == 25
    assert picture.media_s == pytest.approx(1.0)


def test_the_cpu_budget_grows_with_pixels_and_frames_and_has_a_ceiling() -> None:
    small, large = scan(base_clip()), scan(make_clip(width=640, height=480, num_frames=40))
    assert 10 < small.cpu_budget_s() < large.cpu_budget_s() < 12
    assert scan(base_clip(), policy=MediaPolicy(max_cpu_s=3)).cpu_budget_s() == 3


def test_most_bad_files_need_no_decoder_to_be_refused() -> None:
    for bad in hostile_corpus():
        if bad.codes <= BY_STRUCTURE:
            with pytest.raises(ServiceError) as caught:
                scan(bad.data)
            assert caught.value.code in bad.codes, bad.name


def test_the_detail_names_the_limit() -> None:
    with pytest.raises(ServiceError, match="limit of 10 s"):
        scan(make_clip(num_frames=300), policy=MediaPolicy(max_clip_s=10, grace_s=1))
    with pytest.raises(ServiceError, match=r"64x48 pixels, over the limit of 100"):
        scan(base_clip(), policy=MediaPolicy(max_pixels=100))
    with pytest.raises(ServiceError, match="limit of 20"):
        scan(base_clip(), policy=MediaPolicy(max_frames=20))
    with pytest.raises(ServiceError, match="more than 1 tracks"):
        scan(base_clip(), policy=MediaPolicy(max_tracks=1))
    with pytest.raises(ServiceError, match="codec 'zzzz' is not supported"):
        scan(base_clip().replace(b"avc1", b"zzzz"))


def test_codec_names_from_the_file_are_made_printable() -> None:
    with pytest.raises(ServiceError) as caught:
        scan(base_clip().replace(b"avc1", b"\x1b[1\xff"))
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()


def test_a_grace_second_is_given() -> None:
    assert scan(make_clip(num_frames=30), policy=MediaPolicy(max_clip_s=0.5)).head().picture.num_samples == 30


def test_a_second_picture_track_of_an_unknown_codec_does_not_matter() -> None:
    data = base_clip()
    moov, trak = find(data, "moov") - 8, find(data, "trak") - 8
    size = struct.unpack(">I", data[trak : trak + 4])[0]
    extra = data[trak : trak + size].replace(b"avc1", b"jpeg")
    moov_size = struct.unpack(">I", data[moov : moov + 4])[0] + size
    both = data[:moov] + struct.pack(">I", moov_size) + data[moov + 4 : trak] + extra + data[trak:]
    assert scan(both).head().picture.tags == ["avc1"]


def growing(data: bytes, held: int) -> tuple[Scanner, UploadSource, list[int], int]:
    """A scanner over an upload that holds `held` bytes and gets what it asks for, and what it asked for."""
    fd = os.memfd_create("scan")
    os.write(fd, data)
    asked: list[int] = []

    def need(num_bytes: int) -> tuple[int, bool]:
        asked.append(num_bytes)
        return min(len(data), num_bytes), num_bytes >= len(data)

    source = UploadSource(fd, size_bytes=held, is_complete=False, need=need)
    return Scanner(source, MediaPolicy()), source, asked, fd


def test_a_growing_upload_is_waited_for_only_as_far_as_its_index() -> None:
    data = base_clip()
    scanner, _, asked, fd = growing(data, 4)
    scanner.head()
    assert scanner.is_streamable
    assert max(asked) <= find(data, "mdat") + 16
    os.close(fd)


def code_of(data: bytes, *, is_growing: bool) -> str:
    """The code that a walk over the whole upload ends with, `ok` if it is taken."""
    scanner, source, _, fd = growing(data, 4 if is_growing else len(data))
    source.is_complete = not is_growing
    try:
        scanner.head()
        source.complete()
        scanner.rest()
        return "ok"
    except ServiceError as error:
        return error.code
    finally:
        os.close(fd)


@pytest.mark.parametrize("maker", [base_clip, tail_clip, fragmented_clip])
def test_a_cut_file_has_one_code_however_it_arrives(maker: Callable[[], bytes]) -> None:
    data = maker()
    for length in range(1, len(data), 97):
        assert code_of(data[:length], is_growing=True) == code_of(data[:length], is_growing=False), length
    media = find(data, "mdat")
    for length in (media, media + 9, len(data) - 1):
        assert code_of(data[:length], is_growing=True) == "truncated"


def test_a_bad_file_has_one_code_however_it_arrives() -> None:
    for bad in hostile_corpus():
        assert code_of(bad.data, is_growing=True) == code_of(bad.data, is_growing=False), bad.name


def test_a_fragment_is_read_only_once_it_is_checked() -> None:
    data = put32(fragmented_clip(), "trun", 4, 0x00FFFFFF, 2)
    scanner, source, _, fd = growing(data, 4)
    scanner.head()
    source.guard(scanner.vet)
    second = find(data, "moof", 1) - 8
    limit = 0
    while limit < second:
        limit = scanner.vet(limit)
    assert limit == second
    with pytest.raises(ServiceError) as caught:
        source.read(10, second)
    assert caught.value.code in ("broken", "too_many_frames")
    at = second
    assert source.read(10, at) == b""
    with pytest.raises(ServiceError):
        source.check()
    os.close(fd)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(["moov", "moof", "mdat", "ftyp", "free"]))
def test_any_bytes_in_any_box_are_refused_politely(body: bytes, kind: str) -> None:
    with pytest.raises(ServiceError):
        scan(box("ftyp", b"isom\0\0\2\0isom") + box(kind, body))


@settings(max_examples=400)
@given(st.data())
def test_any_change_of_the_index_is_taken_or_refused_politely(data: st.DataObject) -> None:
    clip = data.draw(st.sampled_from([base_clip(), fragmented_clip()]))
    copy = bytearray(clip)
    begin, end = find(clip, "moov"), min(find(clip, "mdat"), len(clip) - 8)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(begin, end))
        copy[at : at + 4] = struct.pack(">I", data.draw(st.integers(0, 2**32 - 1)))
    try:
        scan(bytes(copy))
    except ServiceError:
        return
