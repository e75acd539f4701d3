"""Bad uploads through real children: the right code, soon, and neither a dead child nor a dead service."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.components.pools import code_of, make_request, running_pool
from support.inputs.clips import make_clip
from support.inputs.hostile import BadFile, base_clip, box, find, fragmented_clip, hostile_corpus, tail_clip
from support.inputs.lying_stream import lying_clip, small_clip

from service.media.decoders.pool import DecoderPool, MediaPolicy

HANG_S = 10.0
DOCUMENTED = frozenset(
    {
        "ok",
        "empty_file",
        "not_mp4",
        "unsupported_codec",
        "no_moov",
        "no_video",
        "no_audio",
        "no_frames",
        "encrypted",
        "truncated",
        "broken",
        "external_data",
        "too_long",
        "too_many_frames",
        "picture_too_large",
        "too_many_streams",
        "too_costly",
    }
)


@pytest.fixture
async def pool() -> AsyncIterator[DecoderPool]:
    async with running_pool() as running:
        yield running


async def test_every_bad_file_gets_its_code(pool: DecoderPool, tmp_path: Path) -> None:
    corpus = hostile_corpus()
    assert len(corpus) >= 120
    wrong = {}
    for bad in corpus:
        async with asyncio.timeout(HANG_S):
            code = await code_of(pool, bad.data, tmp_path)
        if code not in bad.codes:
            wrong[bad.name] = (code, sorted(bad.codes))
    assert wrong == {}
    assert await code_of(pool, base_clip(), tmp_path) == "ok"


def mutations(data: bytes, rng: random.Random, num: int) -> list[bytes]:
    """Copies with bytes, lengths and ranges changed, half of the changes in the index."""
    out = []
    index = (find(data, "moov"), find(data, "moov") + 3000)
    for _ in range(num):
        copy = bytearray(data)
        low, high = index if rng.random() < 0.5 else (0, len(data))
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            at = rng.randrange(low, min(high, len(copy) - 8))
            kind = rng.randrange(5)
            if kind == 0:
                copy[at] = rng.randrange(256)
            elif kind == 1:
                copy[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01"))
            elif kind == 2:
                copy[at] ^= 1 << rng.randrange(8)
            elif kind == 3:
                del copy[at : at + rng.randrange(1, 64)]
            else:
                copy[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 64)))
        out.append(bytes(copy))
    return out


async def fuzz(pool: DecoderPool, tmp_path: Path, *, num_each: int, seed: int) -> None:
    rng = random.Random(seed)
    seeds = [base_clip(), tail_clip(), fragmented_clip(), make_clip(codec="mpeg4", num_frames=12, sound="flac")]
    codes: dict[str, int] = {}
    for data in seeds:
        for mutant in mutations(data, rng, num_each):
            async with asyncio.timeout(HANG_S):
                code = await code_of(pool, mutant, tmp_path, make_request(fps=4))
            codes[code] = codes.get(code, 0) + 1
    assert set(codes) <= DOCUMENTED
    assert codes["ok"] > num_each // 10
    assert await code_of(pool, base_clip(), tmp_path) == "ok"


async def test_mutated_files_end_documented(
    pool: DecoderPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fuzz(pool, tmp_path, num_each=75, seed=1)
    assert [record.message for record in caplog.records] == []  # no child died, no exception was unforeseen


@pytest.mark.slow
async def test_many_mutated_files_end_documented(
    pool: DecoderPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fuzz(pool, tmp_path, num_each=2500, seed=2)
    assert [record.message for record in caplog.records] == []  # no child died, no exception was unforeseen


async def test_limits_of_the_policy_are_met(tmp_path: Path) -> None:
    policy = MediaPolicy(max_clip_s=0.5, grace_s=0.1)
    async with running_pool(policy=policy) as pool:
        assert await code_of(pool, make_clip(num_frames=12), tmp_path) == "ok"
        assert await code_of(pool, make_clip(num_frames=25), tmp_path) == "too_long"
    async with running_pool(policy=MediaPolicy(max_samples=10, max_pixels=64 * 48)) as pool:
        assert await code_of(pool, make_clip(), tmp_path, make_request(fps=5)) == "ok"
        assert await code_of(pool, make_clip(), tmp_path, make_request(fps=None)) == "too_many_frames"
        assert await code_of(pool, make_clip(width=66), tmp_path) == "picture_too_large"


async def test_a_sound_track_that_the_clip_lacks_is_refused(tmp_path: Path) -> None:
    async with running_pool() as pool:
        assert await code_of(pool, make_clip(), tmp_path, make_request(audio_track=7)) == "bad_option"


async def test_a_decoder_out_of_memory_says_so(tmp_path: Path) -> None:
    # A decoder at rest maps about 240 MiB; one picture of these needs 80 more, and half of that is there.
    large = make_clip(width=8192, height=4096, num_frames=1)
    policy = MediaPolicy(memory_bytes=280 << 20, max_pixels=8192 * 4096)
    async with running_pool(policy=policy) as pool:
        assert await code_of(pool, large, tmp_path) in ("too_costly", "no_frames")
        assert pool.is_healthy()


async def test_a_stream_that_grows_beyond_its_container_is_refused_for_its_memory(tmp_path: Path) -> None:
    large = make_clip(
        width=3200,
        height=1800,
        num_frames=20,
        b_frames=0,
        pixel_format="yuv444p10le",
        codec_options={"refs": "16", "preset": "ultrafast"},
        flash_frames=frozenset(range(20)),
    )
    async with running_pool() as pool:
        assert await code_of(pool, lying_clip(small_clip(), large), tmp_path, make_request(fps=None)) == "too_costly"
        assert await code_of(pool, lying_clip(small_clip(), small_clip()), tmp_path, make_request(fps=None)) == "ok"
        assert pool.is_healthy()


_PROBE = """
import asyncio, sys
from pathlib import Path
from support.components.pools import code_of, running_pool
async def main():
    async with running_pool(num_decoders=1) as pool:
        for path in sys.argv[2:]:
            print(await code_of(pool, Path(path).read_bytes(), Path(sys.argv[1])))
asyncio.run(main())
"""


@pytest.mark.strace
def test_no_file_is_opened_and_no_socket_made(tmp_path: Path) -> None:
    """The canary lies where a followed reference would find it; the system calls of all processes are recorded."""
    canary = tmp_path / "canary.mp4"
    canary.write_bytes(base_clip())
    tricks = {
        "list.mp4": b"ffconcat version 1.0\nfile canary.mp4\n",
        "hls.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ncanary.mp4\n#EXT-X-ENDLIST\n",
        "http.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "session.sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
        "polyglot.mp4": box("ftyp", b"isom\0\0\2\0isom") + b"#EXTM3U\ncanary.mp4\n",
        "external.mp4": base_clip().replace(b"url \0\0\0\x01", b"url \0\0\0\0"),
        "good.mp4": base_clip(),
    }
    for name, data in tricks.items():
        (tmp_path / name).write_bytes(data)
    log = tmp_path / "calls"
    command = ["strace", "-f", "-e", "trace=open,openat,socket,connect", "-o", str(log), sys.executable, "-c", _PROBE]
    paths = [str(tmp_path / name) for name in tricks]
    done = subprocess.run(
        [*command, str(tmp_path), *paths],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={"PYTHONPATH": ".:tests", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    codes = done.stdout.split()
    assert codes == ["not_mp4"] * 4 + ["no_moov", "external_data", "ok"]
    calls = log.read_text()
    assert "canary" not in calls
    assert "AF_INET" not in calls


def test_names_are_unique() -> None:
    corpus: list[BadFile] = hostile_corpus()
    assert len({bad.name for bad in corpus}) == len(corpus)
