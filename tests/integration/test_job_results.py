"""Results of jobs that are put to a URL: a real front, a real object store on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from support.inputs.clips import make_clip
from support.servers.front import RunningFront, running_front
from support.servers.object_store import ObjectStore, running_store

from service.core.overlay_file import write_overlay
from service.jobs import results
from service.jobs.results import RESULT_FORMATS

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
CLIP = make_clip(width=96, height=64, num_frames=50, flash_frames=frozenset(range(10, 30)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store() -> AsyncIterator[ObjectStore]:
    async with running_store() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningFront]:
    state = tmp_path_factory.mktemp("state")
    async with running_front(result_hosts=f"http://127.0.0.1:{store.port}", state_dir=state) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(front: RunningFront) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as opened:
        yield opened


async def submit(client: httpx.AsyncClient, **options: object) -> httpx.Response:
    return await client.post("/v1/jobs", params={"fps": 5, **options}, files={"video": CLIP})  # type: ignore[dict-item]


async def until_put(client: httpx.AsyncClient, accepted: httpx.Response) -> dict[str, Any]:
    assert accepted.status_code == 202, accepted.text
    async with asyncio.timeout(HANG_S):
        while (job := (await client.get(accepted.headers["location"])).json())["result_put"]["state"] == "waiting":
            await asyncio.sleep(0.02)
    found: dict[str, Any] = job
    return found


@pytest.mark.parametrize("name", [name for name in RESULT_FORMATS if name != "overlay"])
async def test_the_result_is_put_in_every_format(client: httpx.AsyncClient, store: ObjectStore, name: str) -> None:
    url = f"http://127.0.0.1:{store.port}/results/{name}?signature=abc"
    accepted = await submit(client, result_url=url, result_format=name)
    assert accepted.json()["result_put"] == {"state": "waiting", "detail": None}
    assert "signature" not in accepted.text
    job = await until_put(client, accepted)
    assert (job["state"], job["result_put"]) == ("done", {"state": "sent", "detail": None})
    told = await client.get(f"{accepted.headers['location']}/result", params={"format": name})
    assert store.objects[f"/results/{name}?signature=abc"] == told.content
    assert store.heads[-1]["content-type"] == told.headers["content-type"].lower()


@pytest.mark.parametrize("keep_clip", [False, True])
async def test_an_overlay_is_drawn_once_and_put_before_the_clip_is_deleted(
    client: httpx.AsyncClient, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, keep_clip: bool
) -> None:
    drawings: list[None] = []

    async def counted(*arguments: Any, **more: Any) -> None:
        drawings.append(None)
        await write_overlay(*arguments, **more)

    monkeypatch.setattr(results, "write_overlay", counted)
    url, kept = f"http://127.0.0.1:{store.port}/overlay/{keep_clip}", {"keep_clip": "true"} if keep_clip else {}
    store.statuses = ["503 Slow Down"]
    accepted = await submit(client, result_url=url, result_format="overlay", **kept)
    job = await until_put(client, accepted)
    assert (job["state"], job["result_put"]) == ("done", {"state": "sent", "detail": None})
    assert len(drawings) == 1, "the second try sends what was drawn for the first"
    drawn = await client.post("/v1/segment", params={"fps": 5, "format": "overlay"}, files={"video": CLIP})
    assert drawn.status_code == 200
    assert store.objects[f"/overlay/{keep_clip}"] == drawn.content
    assert store.heads[-1]["content-type"] == "video/mp4"
    async with asyncio.timeout(HANG_S):
        path = f"{accepted.headers['location']}/result"
        while (later := await client.get(path, params={"format": "overlay"})).status_code == 200 and not keep_clip:
            await asyncio.sleep(0.05)
    assert later.status_code == (200 if keep_clip else 406)


async def test_a_clip_that_cannot_be_drawn_on_is_said(client: httpx.AsyncClient, store: ObjectStore) -> None:
    """The picture fits into a job's answer and not into an overlay's bytes."""
    url = f"http://127.0.0.1:{store.port}/too-large"
    async with (
        running_front(result_hosts=f"http://127.0.0.1:{store.port}", max_answer_bytes=2000) as narrow,
        httpx.AsyncClient(base_url=narrow.http_url, timeout=HANG_S) as other,
    ):
        job = await until_put(other, await submit(other, result_url=url, result_format="overlay"))
    assert (job["state"], job["result_put"]["state"]) == ("done", "failed")
    assert "2000 bytes" in job["result_put"]["detail"]
    assert "/too-large" not in store.objects


async def test_the_status_says_why_a_result_was_not_taken(client: httpx.AsyncClient, store: ObjectStore) -> None:
    store.statuses = ["403 Forbidden"]
    job = await until_put(client, await submit(client, result_url=f"http://127.0.0.1:{store.port}/expired"))
    assert job["state"] == "done", "the result itself is there"
    assert job["result_put"] == {"state": "failed", "detail": "result_url: its host answered 403."}


async def test_a_passing_failure_is_retried(client: httpx.AsyncClient, store: ObjectStore) -> None:
    store.statuses = ["503 Slow Down"]
    job = await until_put(client, await submit(client, result_url=f"http://127.0.0.1:{store.port}/retried"))
    assert job["result_put"]["state"] == "sent"
    assert "/retried" in store.objects


async def test_a_failed_job_sends_nothing(client: httpx.AsyncClient, store: ObjectStore) -> None:
    url = f"http://127.0.0.1:{store.port}/nothing"
    accepted = await client.post("/v1/jobs", params={"result_url": url}, files={"video": b"no clip"})
    job = await until_put(client, accepted)
    assert job["state"] == "failed"
    assert job["result_put"] == {"state": "failed", "detail": "The job failed, so there is no result."}
    assert "/nothing" not in store.objects


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"result_url": "http://127.0.0.1:1/other"}, "url_refused"),
        ({"result_url": "https://169.254.169.254/"}, "url_refused"),
        ({"result_format": "csv"}, "bad_option"),
        ({"result_format": "overlay"}, "bad_option"),
        ({"result_url": "PLACE", "result_format": "sse"}, "bad_option"),
    ],
)
async def test_what_is_refused(
    client: httpx.AsyncClient, store: ObjectStore, options: dict[str, str], code: str
) -> None:
    place = f"http://127.0.0.1:{store.port}/refused"
    refused = await submit(client, **{name: place if text == "PLACE" else text for name, text in options.items()})
    assert (refused.status_code, refused.json()["code"]) == (400, code)
    if options == {"result_format": "overlay"}:
        assert "keep_clip=true" in refused.json()["detail"]


async def test_a_job_without_an_address_says_nothing_of_one(client: httpx.AsyncClient) -> None:
    assert "result_put" not in (await submit(client)).json()
