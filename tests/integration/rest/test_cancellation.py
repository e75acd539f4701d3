"""Requests that are given up at any moment leave nothing behind; TLS; connections that go on after an answer."""

from __future__ import annotations

import asyncio
import random
import ssl
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from support.inputs.clips import make_clip
from support.servers.front import running_front

from service.predictors.fake import FakePredictor, FakeTiming

RAW = {"Content-Type": "video/mp4"}


async def test_requests_given_up_at_random_moments_leave_nothing_behind():
    clip = make_clip(num_frames=60)
    rng = random.Random(7)

    def slow() -> FakePredictor:
        return FakePredictor(timing=FakeTiming(batch_s=0.02))

    async with running_front(make_predictor=slow) as running:
        core = running.front.core
        async with httpx.AsyncClient(base_url=running.http_url, timeout=60) as client:
            assert (await client.post("/segment", content=clip, headers=RAW)).status_code == 200
            process = psutil.Process()
            files, children = process.num_fds(), len(process.children(recursive=True))

            async def give_up() -> None:
                accept = rng.choice(["application/json", "application/x-ndjson"])
                headers = {**RAW, "Accept": accept}
                try:
                    async with asyncio.timeout(rng.uniform(0, 0.4)):
                        await client.post("/segment?fps=20", content=clip, headers=headers)
                except (TimeoutError, httpx.TransportError):
                    return

            for _ in range(6):
                await asyncio.gather(*(give_up() for _ in range(8)))
        async with asyncio.timeout(30):
            while core.admission.in_flight or len(process.children(recursive=True)) > children:
                await asyncio.sleep(0.02)
            while process.num_fds() > files:
                await asyncio.sleep(0.02)
        assert core.spool.used_bytes == 0
        assert core.segmenter.queue_depth == 0
        left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("answer ")]
        assert left == []


async def test_a_connection_goes_on_after_answers_and_problems():
    clip = make_clip()
    async with running_front() as running:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=running.http_url, timeout=60, limits=limits) as client:
            codes = []
            for content in (clip, b"not a clip", clip, b"", clip):
                codes.append((await client.post("/segment", content=content, headers=RAW)).status_code)
    assert codes == [200, 415, 200, 400, 200]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def test_tls_serves_uploads_answers_and_early_refusals(certificate):
    path, key = certificate
    context = ssl.create_default_context(cafile=path)
    async with running_front(tls_cert=path, tls_key=key, max_upload_bytes=200_000) as running:
        url = f"https://127.0.0.1:{running.http_port}"
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=context) as client:
            answer = await client.post("/segment", content=make_clip(), headers=RAW)
            refused = await client.post("/segment", content=b"x" * 3_000_000, headers=RAW)
            lines = await client.post(
                "/segment", content=make_clip(), headers={**RAW, "Accept": "application/x-ndjson"}
            )
    assert answer.status_code == 200
    assert refused.json()["code"] == "upload_too_large"
    assert lines.text.splitlines()[-1].startswith('{"type":"end"')
