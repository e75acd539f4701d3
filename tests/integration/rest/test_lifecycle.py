"""Connections and requests that end otherwise than they should, and the end of the process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from support.components.scripted_decoders import Script
from support.servers.raw_http import exchange, problem_of, request_head
from support.servers.rest_front import HANG_GUARD_S, FrontSpec, RestFront, rest_front
from support.waiting import until

from service.core import upload_rate
from service.domain.caller import ANONYMOUS
from service.predictors.fake import FakeTiming
from service.rest.connection.policy import ConnectionPolicy

RAW = {"Content-Type": "video/mp4"}
NDJSON = {**RAW, "Accept": "application/x-ndjson"}


async def test_disconnect_ends_a_running_request(tmp_path):
    async with rest_front(tmp_path) as front:
        body = Script(num_samples=40, hangs_after=8).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(request_head(len(body)) + body)
        await until(lambda: front.decoders.num_open == 1, what="decoding has begun")
        writer.close()
        await until(lambda: front.decoders.num_open == 0, what="decoding has ended")
        await until(lambda: front.admission.in_flight == 0, what="the place is free")
        await until(lambda: front.spool.used_bytes == 0, what="the upload is gone")
        await until(
            lambda: front.counted("requests_total", transport="rest", code="client_gone") == 1, what="it is counted"
        )


async def test_disconnect_drops_queued_work_before_it_reaches_a_batch(tmp_path):
    spec = FrontSpec(timing=FakeTiming(batch_s=0.3))
    async with rest_front(tmp_path, spec) as front:
        samples_before = front.counted("samples_total")
        holding = asyncio.create_task(
            front.client.post("/segment", content=Script(num_samples=1).encode(), headers=RAW)
        )
        await until(lambda: front.segmenter.is_idle() is False, what="the device is busy")
        body = Script(num_samples=1, seed=9).encode()
        writers = []
        for _ in range(6):
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(request_head(len(body)) + body)
            writers.append(writer)
        await until(lambda: front.segmenter.queue_depth >= 3, what="they wait")
        for writer in writers:
            writer.close()
        await until(lambda: front.segmenter.queue_depth == 0, what="they are dropped")
        assert (await holding).status_code == 200
        await until(lambda: front.admission.in_flight == 0, what="all have ended")
        done = front.counted("samples_total") - samples_before
        assert done < 7, "at least one of the six was dropped while it waited"


async def test_disconnect_during_the_upload_frees_everything(tmp_path):
    async with rest_front(tmp_path) as front:
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(request_head(100_000) + b"x" * 50_000)
        await until(lambda: front.spool.used_bytes == 50_000, what="half the upload has come")
        writer.close()
        await until(lambda: front.admission.in_flight == 0 and front.spool.used_bytes == 0, what="all is free")


async def test_a_full_house_says_when_to_come_back_without_reading_the_body(tmp_path):
    async with rest_front(tmp_path, FrontSpec(max_requests=1)) as front:
        body = Script(hangs_after=0).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(request_head(len(body)) + body)
        await until(lambda: front.admission.in_flight == 1, what="the only place is taken")
        raw = await exchange(front.port, request_head(3_000_000, "Expect: 100-continue"), eof=False)
        problem = problem_of(raw)
        assert b"100 Continue" not in raw
        assert (problem["status"], problem["code"]) == (429, "queue_full")
        assert f"retry-after: {problem['retry_after_s']}".encode() in raw.lower()
        assert front.counted("shed_total", reason="queue_full") == 1
        writer.close()


async def test_expect_100_continue_is_answered_once_admitted(tmp_path):
    async with rest_front(tmp_path) as front:
        body = Script().encode()
        async with asyncio.timeout(HANG_GUARD_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(request_head(len(body), "Expect: 100-continue"))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()


async def test_an_early_answer_reaches_a_client_that_sends_first_and_reads_later(tmp_path):
    async with rest_front(tmp_path) as front:
        length = 30 * 1024**2
        raw = await exchange(front.port, request_head(length) + b"x" * length)
        assert problem_of(raw)["code"] == "upload_too_large"


async def test_head_over_the_limit_is_431_however_it_comes(tmp_path):
    long_header = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 200_000
    async with rest_front(tmp_path) as front:
        for data in (long_header, long_header + b"\r\n\r\n", b"GET /" + b"a" * 300_000):
            problem = problem_of(await exchange(front.port, data))
            assert (problem["status"], problem["code"]) == (431, "headers_too_large")
        whole = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n"
        assert problem_of(await exchange(front.port, whole))["code"] == "headers_too_large"


async def test_not_http_is_a_problem(tmp_path):
    async with rest_front(tmp_path) as front:
        two_lengths = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"
        for data in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9.9 nonsense\r\n\r\n", two_lengths):
            assert problem_of(await exchange(front.port, data))["code"] == "malformed_body"


async def test_slow_head_and_silent_connection_are_closed(tmp_path):
    spec = FrontSpec(connections=ConnectionPolicy(head_timeout_s=0.2))
    async with rest_front(tmp_path, spec) as front:
        assert problem_of(await exchange(front.port, b"GET / HT"))["code"] == "slow_upload"
        assert await exchange(front.port, b"") == b""


async def test_slow_upload_is_ended_by_the_rate_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(upload_rate, "WINDOW_S", 0.2)
    async with rest_front(tmp_path) as front:
        raw = await exchange(front.port, request_head(100_000) + b"x" * 100)
        problem = problem_of(raw)
        assert (problem["status"], problem["code"]) == (408, "slow_upload")
        assert front.spool.used_bytes == 0


@asynccontextmanager
async def slow_client(front: RestFront, body: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A client with small buffers that has asked for lines and reads nothing by itself."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", front.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    try:
        writer.write(request_head(len(body), "Accept: application/x-ndjson") + body)
        yield reader
    finally:
        writer.transport.abort()


async def test_a_slow_reader_holds_no_decoder_and_gets_everything(tmp_path):
    script = Script(num_samples=2500, block=8)
    async with rest_front(tmp_path) as front, slow_client(front, script.encode()) as reader:
        await until(lambda: front.decoders.num_opened == 1 and front.decoders.num_open == 0, what="decoding has ended")
        assert front.admission.in_flight == 1, "most of the answer is still to be read"
        pieces = []
        async with asyncio.timeout(HANG_GUARD_S):
            while not pieces or b"0\r\n\r\n" not in pieces[-1]:
                pieces.append(await reader.read(65536))
        raw = b"".join(pieces)
        assert raw.count(b'"type":"frame"') == 2500
        assert b'"num_samples":2500' in raw


async def test_a_reader_that_stands_still_is_cut(tmp_path):
    script = Script(num_samples=2500, block=8)
    async with rest_front(tmp_path, FrontSpec(stall_s=0.3)) as front, slow_client(front, script.encode()):
        await until(lambda: front.admission.in_flight == 1, what="it is inside")
        await until(lambda: front.admission.in_flight == 0, what="it was cut")
        assert front.counted("requests_total", transport="rest", code="slow_reader") == 1


async def test_a_slow_reader_is_told_why_and_cut(tmp_path):
    """It reads 2 kB/s where 100 kB/s are asked; what is written already and the reason reach it if it reads on."""
    script = Script(num_samples=2500, block=8)
    spec = FrontSpec(stall_s=1.0, reader_min_bytes_per_s=100_000)
    async with rest_front(tmp_path, spec) as front, slow_client(front, script.encode()) as reader:
        pieces = []
        async with asyncio.timeout(HANG_GUARD_S):
            while not front.counted("requests_total", transport="rest", code="slow_reader"):
                pieces.append(await reader.read(200))
                await asyncio.sleep(0.1)
            while piece := await reader.read(65536):
                pieces.append(piece)
        raw = b"".join(pieces)
        assert raw.endswith(b"\r\n0\r\n\r\n")
        last = json.loads(raw.split(b"\r\n")[-4])
        assert (last["type"], last["problem"]["code"]) == ("error", "slow_reader")
        await until(lambda: front.admission.in_flight == 0 and front.spool.used_bytes == 0, what="all is free")


async def test_slow_uploads_and_slow_readers_take_no_place(tmp_path):
    """With one place, no line, and both sorts of slow clients inside, others are answered one after another."""
    script = Script(num_samples=2500, block=8)
    async with rest_front(tmp_path, FrontSpec(max_requests=1)) as front, slow_client(front, script.encode()):
        await until(lambda: front.decoders.num_opened == 1 and front.decoders.num_open == 0, what="it is being read")
        await until(lambda: front.admission.places.num_working == 0, what="its work has ended")
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(request_head(100_000) + b"x" * 1000)
            writers.append(writer)
        await until(lambda: front.admission.in_flight == 21, what="all are inside")
        for _ in range(3):
            answer = await front.client.post("/segment", content=Script().encode(), headers=RAW)
            assert answer.status_code == 200
        for writer in writers:
            writer.close()


async def test_a_request_waits_in_line_for_a_place(tmp_path):
    async with rest_front(tmp_path, FrontSpec(max_requests=1, max_waiting=1)) as front:
        hanging = Script(hangs_after=0).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(request_head(len(hanging)) + hanging)
        await until(lambda: front.admission.places.num_working == 1, what="the only place is taken")
        waiting = asyncio.create_task(front.client.post("/segment", content=Script().encode(), headers=RAW))
        await until(lambda: front.admission.places.num_waiting == 1, what="one is in line")
        assert front.counted("requests_waiting") == 1
        refused = await front.client.post("/segment", content=Script().encode(), headers=RAW)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        writer.close()
        assert (await waiting).status_code == 200


async def test_a_deadline_passes_in_line(tmp_path):
    async with rest_front(tmp_path, FrontSpec(max_requests=1, max_waiting=1)) as front:
        async with front.admission.places.place(ANONYMOUS):
            headers = {**RAW, "X-Request-Timeout": "0.2"}
            answer = await front.client.post("/segment", content=Script().encode(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert "queue" in answer.json()["detail"]
        assert (front.admission.places.num_waiting, front.admission.places.num_working) == (0, 0)


async def test_keys_share_fairly_and_are_named_in_log_and_metrics(tmp_path, caplog):
    """Key A takes the place and the line; key B's request takes the position of A's last one."""
    caplog.set_level(logging.INFO, logger="avesformer.request")
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()} team {key}\n" for key in "AB"))
    spec = FrontSpec(max_requests=1, max_waiting=2, keys_file=keys)
    async with rest_front(tmp_path, spec) as front:

        def post(key: str, script: Script) -> asyncio.Task[httpx.Response]:
            headers = {**RAW, "Authorization": f"Bearer {key}"}
            return asyncio.create_task(front.client.post("/segment", content=script.encode(), headers=headers))

        hanging = post("A", Script(hangs_after=0))
        await until(lambda: front.decoders.num_open == 1, what="A has the place")
        waiting = [post("A", Script())]
        await until(lambda: front.admission.places.num_waiting == 1, what="A waits")
        waiting.append(post("A", Script()))
        await until(lambda: front.admission.places.num_waiting == 2, what="the line is full")
        served = post("B", Script())
        refused = await waiting[1]
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        hanging.cancel()
        assert [(await task).status_code for task in (served, waiting[0])] == [200, 200]
        await until(lambda: front.admission.in_flight == 0, what="all have ended")
        assert front.counted("key_requests_total", key="team A", outcome="refused") == 1
        assert front.counted("key_requests_total", key="team B", outcome="ok") == 1
        assert front.counted("key_samples_total", key="team B") == 3
        assert front.counted("key_upload_bytes_total", key="team B") == len(Script().encode())
    told = [(record.key, record.code) for record in caplog.records if record.name == "avesformer.request"]
    assert sorted(told) == [
        ("team A", "client_gone"),
        ("team A", "ok"),
        ("team A", "queue_full"),
        ("team B", "ok"),
    ]


async def test_drain_lets_running_work_end_and_refuses_new_work(tmp_path):
    async with rest_front(tmp_path, FrontSpec(timing=FakeTiming(batch_s=0.2))) as front:
        running = asyncio.create_task(
            front.client.post("/segment", content=Script(num_samples=8).encode(), headers=RAW)
        )
        await until(lambda: front.decoders.num_opened == 1, what="it runs")
        front.admission.start_draining()
        ready = await front.client.get("/readyz")
        refused = await front.client.post("/segment", content=Script().encode(), headers=RAW)
        assert (ready.status_code, ready.json()["code"]) == (503, "draining")
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert await front.admission.wait_until_idle(HANG_GUARD_S)
        assert (await running).status_code == 200


@pytest.mark.parametrize("headers", [RAW, NDJSON])
async def test_what_is_left_after_the_drain_ends_as_draining(tmp_path, headers):
    async with rest_front(tmp_path) as front:
        script = Script(num_samples=40, hangs_after=20 if headers is NDJSON else 0)
        running = asyncio.create_task(front.client.post("/segment", content=script.encode(), headers=headers))
        await until(lambda: front.decoders.num_open == 1, what="it runs")
        uploading = asyncio.create_task(exchange(front.port, request_head(100_000) + b"x" * 1000))
        await until(lambda: front.admission.in_flight == 2, what="both are inside")
        if headers is NDJSON:
            await until(lambda: front.counted("samples_total") >= 4, what="the first masks are there")
        await asyncio.sleep(0.3)
        front.admission.start_draining()
        front.admission.stop_running()
        assert await front.admission.wait_until_idle(HANG_GUARD_S)
        response = await running
        if headers is NDJSON:
            last = json.loads(response.text.splitlines()[-1])
            assert (last["type"], last["problem"]["code"]) == ("error", "draining")
        else:
            assert (response.status_code, response.json()["code"]) == (503, "draining")
        assert problem_of(await uploading)["code"] == "draining"
        assert front.decoders.num_open == 0


async def test_samples_of_many_requests_share_batches_and_answers_stay_the_same(tmp_path):
    spec = FrontSpec(timing=FakeTiming(batch_s=0.02))
    async with rest_front(tmp_path, spec) as front:

        async def frames(seed: int) -> object:
            body = Script(num_samples=1, seed=seed).encode()
            return (await front.client.post("/segment", content=body, headers=RAW)).json()["frames"]

        alone = [await frames(seed) for seed in range(32)]
        calls, requests = (front.counted(f"batch_requests_{part}") for part in ("count", "sum"))
        together = await asyncio.gather(*(frames(seed) for seed in range(32)))
        calls = front.counted("batch_requests_count") - calls
        requests = front.counted("batch_requests_sum") - requests
        assert together == alone
        assert requests / calls > 1.5
