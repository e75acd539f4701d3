"""Jobs, keys and the cache through the real service: one process, restarts, and fronts that share a Redis."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.inputs.clips import make_clip
from support.servers.ports import free_port
from support.servers.redis_server import RedisServer
from support.servers.s3_server import s3_bucket
from support.servers.service_process import ServiceProcess
from support.servers.worker_process import WorkerProcess
from support.waiting import wait_until

from service.domain.chunk import MAX_CHUNK_SAMPLES

HANG_S = 60.0
SOUNDING = frozenset(range(5, 100, 2))


def bright_clip(num_frames: int = 75) -> bytes:
    return make_clip(num_frames=num_frames, flash_frames=SOUNDING & frozenset(range(num_frames)))


def events_of(
    client: httpx.Client, location: str, *, last_id: int | None = None
) -> list[tuple[int, str, dict[str, Any]]]:
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    found: list[tuple[int, str, dict[str, Any]]] = []
    with client.stream("GET", f"{location}/events", headers=headers) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        entry: dict[str, str] = {}
        for line in answer.iter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                entry[name] = value
            elif entry:
                found.append((int(entry["id"]), entry["event"], json.loads(entry["data"])))
                entry = {}
    return found


def ended(client: httpx.Client, location: str) -> dict[str, Any]:
    state: dict[str, Any] = {}

    def has_ended() -> bool:
        with suppress(httpx.TransportError):
            state.update(client.get(location).json())
        return state.get("state") in ("done", "failed")

    wait_until(has_ended, what=f"{location} ends")
    return state


def content(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("model", "clip", "options", "frames")}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("state")
    with (
        ServiceProcess(state_dir=folder, webhook_hosts="127.0.0.1") as process,
        httpx.Client(base_url=process.url, timeout=HANG_S) as client,
    ):
        yield client


def test_a_jobs_result_is_the_answer(service: httpx.Client) -> None:
    clip = bright_clip()
    answer = service.post("/v1/segment?fps=8", content=clip, headers={"Content-Type": "video/mp4"}).json()
    assert sum(len(frame["masks"]) for frame in answer["frames"]) > 0
    accepted = service.post("/v1/jobs", data={"fps": "8"}, files={"video": clip}, headers={"Cache-Control": "no-cache"})
    assert accepted.status_code == 202
    location = accepted.headers["location"]
    assert location == f"/v1/jobs/{accepted.json()['job_id']}"
    assert len(accepted.json()["job_id"]) == 32
    state = ended(service, location)
    assert state["state"] == "done"
    assert state["progress"] == 1.0
    assert state["created_at_s"] <= state["started_at_s"] <= state["ended_at_s"]
    result = service.get(f"{location}/result")
    assert content(result.json()) == content(answer)
    assert result.json()["request_id"] == accepted.json()["request_id"]
    again = service.get(f"{location}/result", headers={"If-None-Match": result.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    lines = service.get(f"{location}/result", headers={"Accept": "application/x-ndjson"}).text.splitlines()
    kinds = [json.loads(line)["type"] for line in lines]
    assert [kind for kind in kinds if kind != "event"] == ["clip", *["frame"] * len(answer["frames"]), "end"]
    assert kinds.count("event") == len(answer["events"]) > 0


def test_events_tell_each_frame_once_and_resume(service: httpx.Client) -> None:
    location = service.post("/v1/jobs?fps=native", files={"video": bright_clip(50)}).headers["location"]
    events = events_of(service, location)
    frames = [data for _, kind, data in events if kind == "frame"]
    assert frames == service.get(f"{location}/result").json()["frames"]
    assert events[-1][1] == "done"
    numbers = [number for number, _, _ in events]
    assert numbers == sorted(numbers)
    middle = next(number for number, kind, data in events if kind == "frame" and data["index"] == 30)
    resumed = events_of(service, location, last_id=middle)
    assert [data["index"] for _, kind, data in resumed if kind == "frame"] == list(range(31, 50))
    refused = service.get(f"{location}/events", headers={"Last-Event-ID": "x"})
    assert refused.json()["code"] == "bad_option"


def test_a_failed_job_tells_its_own_problem(service: httpx.Client) -> None:
    location = service.post("/v1/jobs", files={"video": make_clip(sound=None)}).headers["location"]
    state = ended(service, location)
    assert state["state"] == "failed"
    assert state["error"]["code"] == "no_audio"
    result = service.get(f"{location}/result")
    assert (result.status_code, result.json()["code"]) == (422, "no_audio")
    assert events_of(service, location)[-1][1] == "failed"


def test_bad_requests_are_refused_at_the_door(service: httpx.Client) -> None:
    clip = bright_clip(10)
    assert service.post("/v1/jobs?fps=0", files={"video": clip}).json()["code"] == "bad_option"
    assert service.post("/v1/jobs?speed=1", files={"video": clip}).json()["code"] == "bad_option"
    assert service.post("/v1/jobs", files={"video": b""}).json()["code"] == "empty_file"
    assert service.post("/v1/jobs?webhook=http://10.0.0.1/", files={"video": clip}).json()["code"] == "bad_option"
    assert service.post("/v1/jobs?webhook=ftp://x/", files={"video": clip}).json()["code"] == "bad_option"
    for path in ("/v1/jobs/" + "0" * 32, "/v1/jobs/..%2f..", "/v1/jobs/" + "0" * 32 + "/result", "/v1/jobs/x/events"):
        assert service.get(path).json()["code"] in ("job_not_found", "route_not_found")
    assert service.delete("/v1/jobs/" + "0" * 32).json()["code"] == "job_not_found"


def test_an_erased_job_is_gone(service: httpx.Client) -> None:
    location = service.post("/v1/jobs?fps=native", files={"video": bright_clip(100)}).headers["location"]
    early = service.get(f"{location}/result")
    assert early.status_code in (200, 409)
    assert service.delete(location).status_code == 204
    assert service.get(location).json()["code"] == "job_not_found"
    assert service.get(f"{location}/result").json()["code"] == "job_not_found"


def test_the_webhook_is_told_and_signed(service: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        heard = pool.submit(_hear, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/done"
        accepted = service.post("/v1/jobs", data={"webhook": url}, files={"video": bright_clip(20)}).json()
        head, body = heard.result(HANG_S)
    told = json.loads(body)
    assert (told["job_id"], told["state"]) == (accepted["job_id"], "done")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    signed = headers["x-avesformer-timestamp"].encode() + b"." + body
    expected = hmac.new(accepted["webhook_secret"].encode(), signed, hashlib.sha256).hexdigest()
    assert headers["x-avesformer-signature"] == f"sha256={expected}"


def _hear(listener: socket.socket) -> tuple[bytes, bytes]:
    listener.settimeout(HANG_S)
    connection, _ = listener.accept()
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(4096)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        while len(body) < length:
            body += connection.recv(4096)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    return head, body


def test_a_key_gives_the_first_answer(service: httpx.Client) -> None:
    clip, other = bright_clip(30), bright_clip(40)

    def ask(path: str, body: bytes, key: str = "key-1") -> httpx.Response:
        return service.post(path, files={"video": body}, headers={"Idempotency-Key": key, "Cache-Control": "no-cache"})

    first = ask("/v1/segment", clip)
    assert ask("/v1/segment", clip).json() == first.json()
    mismatch = ask("/v1/segment", other)
    assert (mismatch.status_code, mismatch.json()["code"]) == (409, "idempotency_mismatch")
    assert ask("/v1/segment?fps=2", other).status_code == 200
    job = ask("/v1/jobs", clip)
    assert ask("/v1/jobs", clip).json() == job.json()
    silent = make_clip(sound=None)
    failures = [ask("/v1/segment", silent, "key-2") for _ in range(2)]
    assert [failure.json()["code"] for failure in failures] == ["no_audio", "no_audio"]
    assert ask("/v1/segment", clip, "k" * 300).json()["code"] == "bad_option"


def test_equal_requests_are_computed_once(service: httpx.Client) -> None:
    clip = bright_clip(90)

    def ask(_: int) -> dict[str, Any]:
        answer: dict[str, Any] = service.post("/v1/segment?fps=native", files={"video": clip}).json()
        return answer

    def looked_up() -> dict[str, float]:
        lines = service.get("/metrics").text.splitlines()
        rows = [line for line in lines if line.startswith("avesformer_cache_lookups_total{")]
        return {row.split('"')[1]: float(row.split()[-1]) for row in rows}

    before = looked_up()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    answers.append(ask(0))
    after = looked_up()
    assert after["miss"] - before.get("miss", 0) == 1
    assert sum(after.values()) - sum(before.values()) == 7
    assert answers[-1]["cached"]
    assert len({answer["request_id"] for answer in answers}) == 7
    assert all(content(answer) == content(answers[0]) for answer in answers)
    fresh = service.post("/v1/segment?fps=native", files={"video": clip}, headers={"Cache-Control": "no-cache"}).json()
    assert not fresh["cached"]
    assert content(fresh) == content(answers[0])
    assert looked_up() == after


def test_jobs_outlive_a_kill_and_a_restart(tmp_path: Path) -> None:
    settings = {"state_dir": tmp_path, "port": free_port(), "fake_batch_s": 0.2}
    with ServiceProcess(**settings) as process, httpx.Client(base_url=process.url, timeout=HANG_S) as client:
        locations = [
            client.post("/v1/jobs?fps=native", files={"video": bright_clip(60 + number)}).headers["location"]
            for number in range(4)
        ]
        wait_until(lambda: client.get(locations[0]).json()["state"] != "queued")
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
    with ServiceProcess(**settings) as process, httpx.Client(base_url=process.url, timeout=HANG_S) as client:
        for number, location in enumerate(locations):
            assert ended(client, location)["state"] == "done"
            assert len(client.get(f"{location}/result").json()["frames"]) == 60 + number


@pytest.mark.parametrize(
    ("query", "most_again"),
    [
        ("fps=native", 1),  # the last stored sample is computed again: the rest of the clip begins with it
        ("fps=native&only=events", 1),
        ("fps=native&instances=true", MAX_CHUNK_SAMPLES + 1),  # the rest begins where the state of the tracks is stored
    ],
)
def test_a_killed_job_goes_on_where_it_stopped(tmp_path: Path, query: str, most_again: int) -> None:
    num_frames, clip, hold = 120, bright_clip(120), tmp_path / "hold"
    settings = {"state_dir": tmp_path / "state", "port": free_port(), "fake_batch_s": 0.2, "fake_hold_file": hold}
    with ServiceProcess(**settings) as process, httpx.Client(base_url=process.url, timeout=HANG_S) as client:
        location = client.post(f"/v1/jobs?{query}", files={"video": clip}).headers["location"]
        wait_until(lambda: client.get(location).json()["progress"] > 0.1)
        hold.touch()  # however busy this machine is, the job is not done when its process dies
        num_stored = round(client.get(location).json()["progress"] * num_frames)
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
    hold.unlink()
    with ServiceProcess(**settings) as process, httpx.Client(base_url=process.url, timeout=HANG_S) as client:
        state = ended(client, location)
        assert state["state"] == "done"
        assert 0 < process.metric("samples_total") <= num_frames - num_stored + most_again
        result = client.get(f"{location}/result").json()
        fresh = {"Cache-Control": "no-cache"}
        whole = client.post(f"/v1/segment?{query}", files={"video": clip}, headers=fresh).json()
    for answer in (result, whole):
        answer["clip"]["audio"].pop("notes")  # of the last run
    assert content(result) == content(whole)
    assert result["events"] == whole["events"]
    assert len(result["events"]) > 0


def test_keys_outlive_a_restart(tmp_path: Path) -> None:
    settings = {"state_dir": tmp_path, "port": free_port()}
    headers = {"Idempotency-Key": "kept", "Cache-Control": "no-cache"}
    answers = []
    for _ in range(2):
        with ServiceProcess(**settings) as process, httpx.Client(base_url=process.url, timeout=HANG_S) as client:
            answers += [client.post("/v1/segment", files={"video": bright_clip(30)}, headers=headers).json()]
            answers += [client.post("/v1/jobs", files={"video": bright_clip(30)}, headers=headers).json()]
            process.process.send_signal(signal.SIGKILL)
            process.process.wait()
    assert answers[:2] == answers[2:]
    assert answers[0]["frames"]


def test_jobs_may_keep_their_bytes_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        with ServiceProcess(blob_url=bucket.url) as process, process.client() as client:
            expected = client.post("/v1/segment?fps=native", files={"video": bright_clip(40)}).json()
            location = client.post("/v1/jobs?fps=native", files={"video": bright_clip(40)}).headers["location"]
            assert ended(client, location)["state"] == "done"
            answer = client.get(f"{location}/result").json()
            assert content(answer) == content(expected)
            assert [data for _, kind, data in events_of(client, location) if kind == "frame"] == answer["frames"]
            assert any("/jobs/" in f"/{key}" for key in bucket.keys())  # noqa: SIM118 - a listing over HTTP
            assert client.delete(location).status_code == 204
            assert bucket.keys() == []


@pytest.mark.redis
def test_two_fronts_and_two_workers_are_one_service(tmp_path: Path, service: httpx.Client) -> None:
    clip = bright_clip()
    with (
        RedisServer(tmp_path / "redis", is_durable=True) as server,
        WorkerProcess(server.url, batch_s=0.02, lease_s=3.0),
        WorkerProcess(server.url, batch_s=0.02, lease_s=3.0),
        ServiceProcess(redis_url=server.url, state_dir=tmp_path / "state", lease_s=3.0) as left,
        ServiceProcess(redis_url=server.url, state_dir=tmp_path / "state", lease_s=3.0) as right,
        httpx.Client(base_url=left.url, timeout=HANG_S) as one,
        httpx.Client(base_url=right.url, timeout=HANG_S) as two,
    ):
        single = service.post("/v1/segment?fps=6", files={"video": clip}).json()
        for client in (one, two):
            assert content(client.post("/v1/segment?fps=6", files={"video": clip}).json()) == content(single)
        assert two.post("/v1/segment?fps=6", files={"video": clip}).json()["cached"]
        location = one.post("/v1/jobs?fps=5", files={"video": clip}).headers["location"]
        assert ended(two, location)["state"] == "done"
        assert len(events_of(two, location)) > 15
        _kill_a_front_and_redis(server, left, one, two)


def _kill_a_front_and_redis(server: RedisServer, left: ServiceProcess, one: httpx.Client, two: httpx.Client) -> None:
    """A killed front's jobs are finished by the other; a killed Redis forgets none."""
    locations = [
        one.post("/v1/jobs?fps=native", files={"video": bright_clip(80 + number)}).headers["location"]
        for number in range(5)
    ]
    left.process.send_signal(signal.SIGKILL)
    left.process.wait()
    server.kill()
    assert two.get(locations[0]).json()["code"] == "backend_down"
    assert two.get("/livez").status_code == 200
    time.sleep(1.0)
    server.start()
    for number, location in enumerate(locations):
        assert ended(two, location)["state"] == "done"
        assert len(two.get(f"{location}/result").json()["frames"]) == 80 + number
