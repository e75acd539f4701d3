"""Instances over every transport and format: the same tracks, and the same pixels as without them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from support.inputs.discs import crossing, picture
from support.inputs.live_inputs import noise
from support.inputs.live_inputs import raw_frame as live_frame
from support.servers.front import RunningFront, running_front
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from model.data.mp4 import write_mp4
from service.client.grpc_async import AsyncGrpcClient
from service.client.policy import ClientPolicy
from service.codec.answer_json import encode_frame
from service.codec.live_json import encode_live_input
from service.domain.live import LiveInput, LiveMasks, LiveOptions
from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks, SoundEvent

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
RAW = {"Content-Type": "application/octet-stream"}
NUM_FRAMES, RATE = 31, 10
# Samples in which the sound pauses: half a second, which the tracks survive.
PAUSE_S = (1.0, 1.5)
# What one mask tells: label, track, gap, area, run lengths.
Told = list[list[tuple[str, int | None, float | None, int, str]]]
ASKED = {"fps": str(RATE), "instances": "true", "event_gap_s": "0"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two discs cross while noise sounds, with one pause."""
    path: Path = tmp_path_factory.mktemp("instances") / "crossing.mp4"
    times_s = np.arange(16_000 * NUM_FRAMES // RATE) / 16_000
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, len(times_s)).astype(np.float32)
    sound[(times_s >= PAUSE_S[0] - 0.2) & (times_s < PAUSE_S[1])] = 0
    frames = (picture(discs).repeat(2, axis=0).repeat(2, axis=1) for discs in crossing(NUM_FRAMES))
    write_mp4(path, frames=frames, frame_rate=Fraction(RATE), waveform=sound)
    return path.read_bytes()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front(cache_bytes=2**24) as running:
        yield running


async def post(front: RunningFront, clip: bytes, **options: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=HANG_S) as http:
        answer = await http.post(f"{front.http_url}/v1/segment", content=clip, headers=RAW, params=options)
    assert answer.status_code == 200, answer.text
    return answer


def told(frames: Sequence[dict[str, Any]]) -> Told:
    return [
        [
            (mask["label"], mask.get("track_id"), mask.get("gap_s"), mask["area"], mask["segmentation"]["counts"])
            for mask in frame["masks"]
        ]
        for frame in frames
    ]


def told_of(frames: Sequence[FrameMasks]) -> Told:
    return told([json.loads(encode_frame(frame)) for frame in frames])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(front: RunningFront, clip: bytes) -> dict[str, Any]:
    """The JSON answer, after a look at it."""
    document: dict[str, Any] = (await post(front, clip, **ASKED)).json()
    assert document["options"]["instances"] is True
    tracks = {mask["track_id"] for frame in document["frames"] for mask in frame["masks"]}
    assert tracks == {1, 2}
    resumed = [(frame, mask) for frame in document["frames"] for mask in frame["masks"] if "gap_s" in mask]
    assert {mask["track_id"] for _, mask in resumed} == {1, 2}
    assert all(mask["gap_s"] >= 0.5 for _, mask in resumed)
    first, last = document["frames"][0]["masks"], document["frames"][-1]["masks"]
    assert (first[0]["bbox"][0] < first[1]["bbox"][0]) != (last[0]["bbox"][0] < last[1]["bbox"][0]), "they cross"
    assert {event["track_id"] for event in document["events"]} == {1, 2}
    assert len(document["events"]) == 4, "each sounds before and after the pause"
    return document


async def test_every_stream_tells_the_same(front: RunningFront, clip: bytes, expected: dict[str, Any]) -> None:
    lines = (await post(front, clip, format="ndjson", **ASKED)).text.splitlines()
    assert told([line for line in map(json.loads, lines) if line["type"] == "frame"]) == told(expected["frames"])
    events = [json.loads(line) for line in lines if '"type":"event"' in line]
    assert sorted(event["start_s"] for event in events) == [event["start_s"] for event in expected["events"]]
    sse = (await post(front, clip, format="sse", **ASKED)).text
    data = [json.loads(line.removeprefix("data: ")) for line in sse.splitlines() if line.startswith("data: ")]
    assert told([line for line in data if line["type"] == "frame"]) == told(expected["frames"])
    async with AsyncGrpcClient(front.grpc_target, ClientPolicy(attempts=1)) as client:
        over_grpc = await client.segment(clip, SegmentOptions(fps=RATE, instances=True, event_gap_s=0.0))
    assert told_of(over_grpc.frames) == told(expected["frames"])
    assert over_grpc.options.instances
    assert {event.track_id for event in over_grpc.events} == {1, 2}


async def test_a_cached_answer_has_its_tracks_and_other_events_reuse_it(
    front: RunningFront, clip: bytes, expected: dict[str, Any]
) -> None:
    again = (await post(front, clip, **{**ASKED, "event_gap_s": "1", "event_onset": "0.9"})).json()
    assert again["cached"]
    assert told(again["frames"]) == told(expected["frames"])
    assert {event["track_id"] for event in again["events"]} <= {1, 2}
    assert len(again["events"]) == 2, "the pause belongs to the events now"


async def test_without_the_option_nothing_of_it_shows(
    front: RunningFront, clip: bytes, expected: dict[str, Any]
) -> None:
    answer = await post(front, clip, fps=str(RATE), event_gap_s="0")
    assert "instances" not in answer.json()["options"]
    assert '"gap_s"' not in answer.text
    assert '"track_id"' not in answer.text.partition('"events"')[0]
    for plain, separated in zip(answer.json()["frames"], expected["frames"], strict=True):
        assert [mask["area"] for mask in plain["masks"]] == (
            [sum(mask["area"] for mask in separated["masks"])] if separated["masks"] else []
        )
        for mask in plain["masks"]:
            total = sum(part["area"] * part["score"] for part in separated["masks"])
            assert total / mask["area"] == pytest.approx(mask["score"], abs=1e-5)
    explicit = await post(front, clip, fps=str(RATE), event_gap_s="0", instances="false")
    assert explicit.json()["frames"] == answer.json()["frames"]


async def test_files_and_jobs_have_the_tracks(front: RunningFront, clip: bytes, expected: dict[str, Any]) -> None:
    coco = (await post(front, clip, format="coco", **ASKED)).json()
    assert [annotation["track_id"] for annotation in coco["annotations"]] == [1, 2]
    rows = list(csv.DictReader(io.StringIO((await post(front, clip, format="csv", **ASKED)).text)))
    assert [row["counts"] for row in rows] == [mask[4] for frame in told(expected["frames"]) for mask in frame]
    assert {row["track_id"] for row in rows} == {"1", "2"}
    assert "sounding 2" in (await post(front, clip, format="vtt", **ASKED)).text
    assert "sounding 1" in (await post(front, clip, format="srt", **ASKED)).text
    polygons = (await post(front, clip, format="polygons", **ASKED)).json()
    assert [mask["track_id"] for mask in polygons["frames"][0]["masks"]] == [1, 2]
    async with httpx.AsyncClient(timeout=HANG_S, base_url=front.http_url) as http:
        location = (await http.post("/v1/jobs", content=clip, headers=RAW, params=ASKED)).headers["location"]
        async with asyncio.timeout(HANG_S):
            while (await http.get(location)).json()["state"] not in ("done", "failed"):
                await asyncio.sleep(0.05)
        kept = (await http.get(f"{location}/result")).json()
        stream = (await http.get(f"{location}/events")).text
    assert told(kept["frames"]) == told(expected["frames"])
    assert kept["events"] == expected["events"]
    assert stream.count('"track_id":2') >= stream.count("event: frame") - 10


def live_inputs() -> list[LiveInput]:
    """The same pictures, with sound up to each of them."""
    items: list[LiveInput] = []
    for number, discs in enumerate(crossing(NUM_FRAMES)):
        is_pause = PAUSE_S[0] - 0.2 <= number / RATE < PAUSE_S[1]
        items.append(noise(number / RATE, 1 / RATE, rate_hz=16_000, level=0 if is_pause else 8000))
        items.append(live_frame((number + 1) / RATE - 0.001, picture(discs)))
    return items


def check_live(frames: Sequence[list[tuple[int | None, int]]]) -> None:
    """Two tracks throughout; each frame is given as tracks and left edges."""
    assert {track for frame in frames for track, _ in frame} == {1, 2}
    both = [dict(frame) for frame in frames if len(frame) == 2]
    assert len(both) > 20
    assert (both[0][1] < both[0][2]) != (both[-1][1] < both[-1][2]), "they cross"


async def test_live_streams_have_tracks(front: RunningFront) -> None:
    options = LiveOptions(instances=True, max_waiting_frames=64, event_gap_s=0.0)

    async def inputs() -> AsyncIterator[LiveInput]:
        for item in live_inputs():
            yield item

    async with AsyncGrpcClient(front.grpc_target, ClientPolicy(attempts=1)) as client, asyncio.timeout(HANG_S):
        answers = [event async for event in client.live(inputs(), options)]
    masks = [event.masks.masks for event in answers if isinstance(event, LiveMasks)]
    check_live([[(mask.track_id, mask.bbox[0]) for mask in frame] for frame in masks])
    assert any((mask.gap_s or 0) >= 0.5 for frame in masks for mask in frame)
    assert {event.track_id for event in answers if isinstance(event, SoundEvent)} == {1, 2}


async def test_the_websocket_has_tracks_too(front: RunningFront) -> None:
    messages: list[dict[str, Any]] = []
    async with connect(f"ws://127.0.0.1:{front.http_port}/v1/live", max_size=None, open_timeout=HANG_S) as socket:
        await socket.send(json.dumps({"type": "options", "instances": True, "max_waiting_frames": 64}))
        for item in live_inputs():
            await socket.send(encode_live_input(item))
        await socket.send(json.dumps({"type": "end"}))
        try:
            async with asyncio.timeout(HANG_S):
                while True:
                    messages.append(json.loads(await socket.recv()))
        except ConnectionClosed:
            pass
    frames = [message["masks"] for message in messages if message["type"] == "frame"]
    check_live([[(mask["track_id"], mask["bbox"][0]) for mask in frame] for frame in frames])


async def test_an_interrupted_call_resumes_with_its_tracks(
    front: RunningFront, clip: bytes, expected: dict[str, Any]
) -> None:
    options = SegmentOptions(fps=RATE, instances=True, event_gap_s=0.0)
    async with AsyncGrpcClient(front.grpc_target, ClientPolicy(attempts=1)) as client:
        events = [event async for event in client.stream(clip, options, resume_from_index=20)]
    frames = [event for event in events if isinstance(event, FrameMasks)]
    assert told_of(frames) == told(expected["frames"])[20:]
