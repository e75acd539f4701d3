"""The service as a process: start, answers, the end it is told, and the ends it comes to by itself."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from support.inputs.clips import make_clip
from support.servers.service_process import ServiceProcess
from support.waiting import wait_until

pytestmark = pytest.mark.e2e
RAW = {"Content-Type": "video/mp4"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip() -> bytes:
    return make_clip(num_frames=125, fps=25)


def in_flight(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("avesformer_requests_in_flight"))


class Posting(threading.Thread):
    """A request in the background."""

    def __init__(self, service: ServiceProcess, clip: bytes, query: str = "", **headers: str) -> None:
        super().__init__()
        self._target_of = (service, clip, query, headers)
        self.response: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        service, clip, query, headers = self._target_of
        with service.client() as client:
            self.response = client.post(f"/segment?{query}", content=clip, headers={**RAW, **headers})

    def answer(self) -> httpx.Response:
        self.join(60)
        assert self.response is not None
        return self.response


def test_it_says_when_it_is_ready_and_answers_and_ends_with_0(clip):
    with ServiceProcess() as service:
        with service.client() as client:
            assert client.get("/readyz").json() == {"status": "ready"}
            answer = client.post("/v1/segment", files={"video": ("a.mp4", clip)}, data={"fps": "2"})
            assert answer.status_code == 200
            assert answer.json()["clip"]["num_samples"] == 10
            version = client.get("/version").json()
            assert version["media"]["ffmpeg"]
            assert version["model"]["compute_type"] == "emulated"
            assert version["model"]["device"]["device"] == "emulated"
            assert 'avesformer_device_info{cuda="none",device="emulated"' in client.get("/metrics").text
        children = service.family()[1:]
        assert children, "the zygote runs beside it"
        service.terminate()
        assert service.wait() == 0
        psutil.wait_procs(children, timeout=30)
        assert not any(child.is_running() for child in children)
        entries = [json.loads(line) for line in service.lines if line.startswith("{")]
        requests = [entry for entry in entries if entry["message"] == "request ended"]
        assert len(requests) == 1
        assert requests[0]["request_id"] == answer.json()["request_id"]
        assert requests[0]["upload_bytes"] == len(clip)
        assert not any("Traceback" in line for line in service.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_is_finished_before_the_end(clip, number):
    with ServiceProcess(fake_batch_s=0.3) as service, service.client() as client:
        running = Posting(service, clip, "fps=10")
        wait_until(lambda: in_flight(client) == 1)
        service.terminate(number)
        service.wait_for_line("draining")
        wait_until(lambda: client.get("/readyz").status_code == 503)
        refused = client.post("/segment", content=clip, headers=RAW)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert running.answer().status_code == 200
        assert service.wait() == 0


def test_what_outlasts_the_drain_ends_as_draining(clip):
    with ServiceProcess(fake_batch_s=0.5, drain_s=0.5, max_batch=1) as service, service.client() as client:
        whole = Posting(service, clip, "fps=10")
        lines = Posting(service, clip, "fps=10", Accept="application/x-ndjson")
        wait_until(lambda: in_flight(client) == 2)
        time.sleep(1.0)
        service.terminate()
        assert (whole.answer().status_code, whole.answer().json()["code"]) == (503, "draining")
        last = json.loads(lines.answer().text.splitlines()[-1])
        problem = last["problem"] if lines.answer().status_code == 200 else last
        assert problem["code"] == "draining"
        assert service.wait() == 0


def test_a_second_signal_ends_the_drain(clip):
    with ServiceProcess(fake_batch_s=0.5, drain_s=60, max_batch=1) as service, service.client() as client:
        running = Posting(service, clip, "fps=10")
        wait_until(lambda: in_flight(client) == 1)
        service.terminate()
        service.wait_for_line("draining")
        service.terminate()
        assert running.answer().json()["code"] == "draining"
        assert service.wait() == 0


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from service.cli.main import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def test_a_taken_port_ends_with_1_and_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments in (("--port", port, "--grpc-port", "0"), ("--port", "0", "--grpc-port", port)):
            result = run_command("serve", *arguments)
            complaints = [line for line in result.stderr.splitlines() if line.startswith("avesformer")]
            assert result.returncode == 1, result.stderr
            assert len(complaints) == 1, result.stderr
            assert port in complaints[0]
            assert "Traceback" not in result.stderr


def test_a_missing_checkpoint_ends_with_1_and_says_so(tmp_path):
    missing = tmp_path / "nothing.safetensors"
    result = run_command("serve", "--port", "0", "--grpc-port", "0", "--checkpoint", str(missing))
    complaints = [line for line in result.stderr.splitlines() if line.startswith("avesformer")]
    assert result.returncode == 1
    assert len(complaints) == 1, result.stderr
    assert "nothing.safetensors" in complaints[0]


@pytest.mark.parametrize(
    "arguments",
    [("serve", "--port", "0", "--grpc-port", "0"), ("worker", "--redis", "redis://127.0.0.1:1/0", "--port", "0")],
    ids=["serve", "worker"],
)
def test_a_device_that_is_not_there_ends_with_1_and_is_named(arguments):
    """As compose's GPU worker without its GPU: it must not run on the CPU in silence."""
    result = run_command(*arguments, "--device", "cuda:99")
    complaints = [line for line in result.stderr.splitlines() if line.startswith("avesformer")]
    assert result.returncode == 1, result.stderr
    assert "cuda:99" in complaints[-1], result.stderr
    assert "CUDA devices" in complaints[-1]
