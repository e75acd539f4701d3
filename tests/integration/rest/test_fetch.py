"""Clips by URL: a real front fetches from a real server on the loopback, which its setting names as a whole origin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from support.inputs.clips import make_clip
from support.servers.front import RunningFront, running_front

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
CLIP = make_clip(width=96, height=64, num_frames=50)
LARGE = 2 * 1024**2


class Store:
    """Answers GET requests by path, over plain sockets so that it can misbehave; counts what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        self.asked.append(path)
        try:
            await self._answer(path, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        def head(status: str, **headers: object) -> bytes:
            lines = [f"HTTP/1.1 {status}", "Connection: close", *(f"{k}: {v}" for k, v in headers.items())]
            return "\r\n".join([*lines, "", ""]).encode()

        places = {
            "/moved": "/clip.mp4?signature=x",
            "/loop": "/loop",
            "/inside": f"http://localhost:{self.port}/clip.mp4",
            "/metadata": "http://169.254.169.254/latest/meta-data",
        }
        if path.startswith("/clip.mp4"):
            writer.write(head("200 OK", **{"Content-Length": len(CLIP)}) + CLIP)
        elif path in places:
            writer.write(head("302 Found", Location=places[path]))
        elif path == "/large":
            writer.write(head("200 OK", **{"Content-Length": LARGE}))
        elif path == "/unbounded":
            writer.write(head("200 OK"))
            for _ in range(LARGE // 65536):
                writer.write(bytes(65536))
                await writer.drain()
        elif path == "/slow":
            writer.write(head("200 OK") + CLIP[:100])
            await writer.drain()
            await asyncio.sleep(HANG_S)
        else:
            writer.write(head("404 Not Found"))
        await writer.drain()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store() -> AsyncIterator[Store]:
    store = Store()
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0)
    store.port = server.sockets[0].getsockname()[1]
    yield store
    server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(store: Store, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningFront]:
    async with running_front(
        fetch_hosts=f"http://127.0.0.1:{store.port}",
        max_upload_bytes=1024**2,
        state_dir=tmp_path_factory.mktemp("state"),
    ) as running:
        yield running


async def ask(front: RunningFront, body: object, *, path: str = "/v1/segment", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client:
        return await client.post(path, json=body, headers=headers)


@pytest.mark.parametrize("path", ["/clip.mp4", "/clip.mp4?X-Amz-Signature=abc", "/moved"])
async def test_a_clip_by_url_is_answered_like_its_upload(front: RunningFront, store: Store, path: str) -> None:
    url = f"http://127.0.0.1:{store.port}{path}"
    fetched = await ask(front, {"url": url, "fps": 5, "labels": ["sounding"]})
    assert fetched.status_code == 200, fetched.text
    async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client:
        sent = await client.post("/v1/segment", params={"fps": 5}, files={"video": CLIP})
    assert fetched.json()["frames"] == sent.json()["frames"]


async def test_a_job_by_url(front: RunningFront, store: Store) -> None:
    accepted = await ask(front, {"url": f"http://127.0.0.1:{store.port}/clip.mp4"}, path="/v1/jobs")
    assert accepted.status_code == 202
    async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client, asyncio.timeout(HANG_S):
        while (job := (await client.get(accepted.headers["location"])).json())["state"] not in ("done", "failed"):
            await asyncio.sleep(0.02)
    assert job["state"] == "done"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/nothing", "url_unreachable"),
        ("/loop", "url_unreachable"),
        ("/inside", "url_refused"),  # another name for the same place is not on the list
        ("/metadata", "url_refused"),
        ("/large", "upload_too_large"),
        ("/unbounded", "upload_too_large"),
    ],
)
async def test_what_cannot_be_fetched_has_its_error(front: RunningFront, store: Store, path: str, code: str) -> None:
    answer = await ask(front, {"url": f"http://127.0.0.1:{store.port}{path}"})
    assert answer.json()["code"] == code
    assert front.front.core.admission.in_flight == 0


async def test_a_slow_source_meets_the_deadline(front: RunningFront, store: Store) -> None:
    url = f"http://127.0.0.1:{store.port}/slow"
    answer = await ask(front, {"url": url}, **{"X-Request-Timeout": "0.5"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_file"),
        ({"url": ""}, "missing_file"),
        ([], "malformed_body"),
        ({"url": "https://example.org/clip.mp4"}, "url_refused"),
        ({"url": "http://127.0.0.1:1/clip.mp4"}, "url_refused"),
        ({"url": "file:///etc/passwd"}, "url_refused"),
        ({"url": "https://user:secret@example.org/"}, "url_refused"),
        ({"url": {"a": 1}}, "bad_option"),
        ({"url": "x" * 70_000}, "upload_too_large"),
    ],
)
async def test_bad_bodies_are_refused(front: RunningFront, body: object, code: str) -> None:
    assert (await ask(front, body)).json()["code"] == code


async def test_the_other_members_are_options(front: RunningFront, store: Store) -> None:
    answer = await ask(front, {"url": f"http://127.0.0.1:{store.port}/clip.mp4", "fps": 0})
    assert answer.json()["code"] == "bad_option"


async def test_without_the_setting_nothing_is_fetched(store: Store, tmp_path: Path) -> None:
    num_asked = len(store.asked)
    async with running_front(state_dir=tmp_path) as front:
        answer = await ask(front, {"url": f"http://127.0.0.1:{store.port}/clip.mp4"})
    assert (answer.status_code, answer.json()["code"]) == (400, "url_refused")
    assert "AVES_FETCH_HOSTS" in answer.json()["detail"]
    assert len(store.asked) == num_asked
