"""Every format over HTTP, of requests and of the results of jobs."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pycocotools import mask as coco
from support.inputs.odd_clips import odd_clip
from support.servers.front import RunningFront, running_front

from service.formats.choose import FORMATS, MEDIA_TYPES, WITH_RUN_LENGTHS

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
RAW = {"Content-Type": "application/octet-stream"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front() as running:
        yield running


async def ask(front: RunningFront, *, accept: str | None = None, **options: str) -> httpx.Response:
    headers = RAW if accept is None else {**RAW, "Accept": accept}
    async with httpx.AsyncClient(timeout=HANG_S) as http:
        url = f"{front.http_url}/v1/segment"
        return await http.post(
            url, content=odd_clip("plain"), headers=headers, params={"fps": "5", "event_min_s": "0.1", **options}
        )


async def test_the_result_of_a_job_in_every_format_is_that_of_the_request(front: RunningFront) -> None:
    async with httpx.AsyncClient(timeout=HANG_S, base_url=front.http_url) as http:
        accepted = await http.post(
            "/v1/jobs", content=odd_clip("plain"), headers=RAW, params={"fps": "5", "event_min_s": "0.1"}
        )
        location = accepted.headers["location"]
        async with asyncio.timeout(HANG_S):
            while (await http.get(location)).json()["state"] not in ("done", "failed"):
                await asyncio.sleep(0.05)
        for name in FORMATS:
            if name == "overlay":  # tests/integration/rest/test_overlay_format.py
                continue
            asked = await ask(front, format=name)
            kept = await http.get(f"{location}/result", params={"format": name})
            for answer in (asked, kept):
                assert answer.status_code == 200, answer.text
                assert answer.headers["content-type"] == MEDIA_TYPES[name]
            if name not in ("json", "ndjson", "sse", "polygons"):  # those tell the request id and times
                assert asked.content == kept.content, name
            if name in ("ndjson", "sse"):
                assert kept.text.count('"type":"frame"') == asked.text.count('"type":"frame"') > 0
                assert '"type":"end"' in kept.text
            assert len(kept.content) > 20
            etag = kept.headers["etag"]
            again = await http.get(f"{location}/result", params={"format": name}, headers={"If-None-Match": etag})
            assert again.status_code == 304
            other = await http.get(f"{location}/result", params={"format": "json"}, headers={"If-None-Match": etag})
            assert (other.status_code == 304) == (name == "json")


async def test_accept_and_format_agree(front: RunningFront) -> None:
    document = (await ask(front)).json()
    num_masks = sum(len(frame["masks"]) for frame in document["frames"])
    assert num_masks > 0
    rows = list(csv.DictReader(io.StringIO((await ask(front, accept="text/csv")).text)))
    assert len(rows) == num_masks
    with zipfile.ZipFile(io.BytesIO((await ask(front, accept="application/zip")).content)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == num_masks + 1
    assert (await ask(front, accept="text/vtt")).text.startswith("WEBVTT")
    assert (await ask(front, accept="text/csv", format="srt")).headers["content-type"] == MEDIA_TYPES["srt"]
    assert (await ask(front, accept="image/png")).status_code == 406


def masks_of(name: str, text: str) -> list[dict[str, Any]]:
    """Return the `segmentation` objects of an answer, frame by frame and in the order of labels."""
    if name == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        sizes = [[int(row["mask_height"]), int(row["mask_width"])] for row in rows]
        return [{"size": size, "counts": row["counts"]} for size, row in zip(sizes, rows, strict=True)]
    if name == "coco":
        annotations = json.loads(text)["annotations"]
        found = [annotation["segmentations"] for annotation in annotations]
        return [entry for frame in zip(*found, strict=True) for entry in frame if entry is not None]
    if name == "json":
        frames = json.loads(text)["frames"]
    else:
        lines = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if '"type"' in line]
        frames = [line for line in lines if line["type"] == "frame"]
    return [mask["segmentation"] for frame in frames for mask in frame["masks"]]


def pixels(mask: dict[str, Any]) -> bytes:
    """Decode a mask in either form of run lengths."""
    counts = mask["counts"]
    if isinstance(counts, str) and " " in counts:
        counts = [int(length) for length in counts.split()]
    rle = {"size": mask["size"], "counts": counts}
    if isinstance(counts, list):
        assert sum(counts) == mask["size"][0] * mask["size"][1]
        rle = coco.frPyObjects(rle, *mask["size"])
    shown: bytes = coco.decode(rle).tobytes()
    return shown


async def test_both_forms_of_run_lengths_have_the_same_pixels_in_every_format(front: RunningFront) -> None:
    expected = [pixels(mask) for mask in masks_of("json", (await ask(front, fps="10")).text)]
    assert len(expected) > 1
    async with httpx.AsyncClient(timeout=HANG_S, base_url=front.http_url) as http:
        accepted = await http.post("/v1/jobs", content=odd_clip("plain"), headers=RAW, params={"fps": "10"})
        location = accepted.headers["location"]
        async with asyncio.timeout(HANG_S):
            while (await http.get(location)).json()["state"] not in ("done", "failed"):
                await asyncio.sleep(0.05)
        for name in WITH_RUN_LENGTHS:
            strict = await http.get(f"{location}/result", params={"format": name, "rle": "compressed"})
            loose = await http.get(f"{location}/result", params={"format": name, "rle": "uncompressed"})
            answers = [strict, loose]
            if name in ("json", "ndjson"):
                answers.append(await ask(front, fps="10", format=name, rle="uncompressed"))
            for answer in answers:
                masks = masks_of(name, answer.text)
                assert isinstance(masks[0]["counts"], str if answer is strict or name == "csv" else list)
                assert [pixels(mask) for mask in masks] == expected, name


async def test_server_sent_events_hold_the_lines(front: RunningFront) -> None:
    lines = [json.loads(line) for line in (await ask(front, accept="application/x-ndjson")).text.splitlines()]
    text = (await ask(front, accept="text/event-stream")).text
    events = [dict(part.split(": ", 1) for part in block.splitlines()) for block in text.split("\n\n") if block]
    assert [event["event"] for event in events] == [line["type"] for line in lines]
    frames = [json.loads(event["data"]) for event in events if event["event"] == "frame"]
    assert [frame["index"] for frame in frames] == [line["index"] for line in lines if line["type"] == "frame"]


@pytest.mark.parametrize(
    "options", [{"format": "gif"}, {"rle": "zip", "format": "coco"}, {"rle": "uncompressed", "format": "png"}]
)
async def test_bad_formats_are_refused(front: RunningFront, options: dict[str, str]) -> None:
    answer = await ask(front, **options)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_option")
    assert next(iter(options)) in answer.json()["detail"]


async def test_a_jobs_format_is_chosen_with_its_result(front: RunningFront) -> None:
    async with httpx.AsyncClient(timeout=HANG_S, base_url=front.http_url) as http:
        refused = await http.post("/v1/jobs", content=odd_clip("plain"), headers=RAW, params={"format": "csv"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_option")
