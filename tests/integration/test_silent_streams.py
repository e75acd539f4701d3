"""Heartbeats carry streams that are silent for longer than the read time-outs of nginx, over HTTP and gRPC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from support.inputs.clips import make_clip
from support.servers.ports import free_port
from support.servers.service_process import ServiceProcess
from support.waiting import wait_until

from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
GUARD_S = 120.0
READ_TIMEOUT_S, HELD_S = 3, 4.5
# The first chunk has 4 samples at most, so much is left to compute when its frames are there.
NUM_FRAMES, MAX_BATCH, ITEM_S = 36, 4, 0.1
# On a busy machine one stream may end before the other begins, and be silent in none of its time.
NUM_TRIES = 4
CONFIG = """
{user}daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 10m;
  server {{
    listen 127.0.0.1:{http_port};
    location / {{ proxy_pass {url}; proxy_http_version 1.1; proxy_read_timeout {timeout}s; }}
  }}
  server {{
    listen 127.0.0.1:{grpc_port} http2;
    location / {{ grpc_pass grpc://{target}; grpc_read_timeout {timeout}s; grpc_send_timeout {timeout}s; }}
  }}
}}
"""


@contextmanager
def nginx_in_front(service: ServiceProcess, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the URL and the gRPC address behind nginx."""
    assert NGINX is not None
    ports = {"http_port": free_port(), "grpc_port": free_port()}
    config = folder / "nginx.conf"
    config.write_text(
        CONFIG.format(
            user="user root;\n" if os.geteuid() == 0 else "",
            folder=folder,
            url=service.url,
            target=service.grpc_target,
            timeout=READ_TIMEOUT_S,
            **ports,
        )
    )
    with subprocess.Popen([NGINX, "-c", str(config), "-e", "stderr"], stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{ports['http_port']}"
            wait_until(lambda: is_alive(url))
            yield url, f"127.0.0.1:{ports['grpc_port']}"
        finally:
            process.terminate()


def is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


def http_lines(url: str, clip: bytes, first_frame: threading.Event) -> list[str]:
    """Return the kinds of the lines of an NDJSON answer; the event is set by the first frame."""
    headers = {"Content-Type": "video/mp4", "Accept": "application/x-ndjson"}
    address = f"{url}/v1/segment?fps=native"
    kinds: list[str] = []
    while not kinds:  # 504 of nginx where a busy machine is late with the first frame
        with httpx.stream("POST", address, content=clip, headers=headers, timeout=GUARD_S) as answer:
            for line in answer.iter_lines() if answer.status_code == 200 else ():
                kinds.append(json.loads(line)["type"])
                if kinds[-1] == "frame":
                    first_frame.set()
    return kinds


def grpc_messages(target: str, clip: bytes, first_frame: threading.Event) -> list[str]:
    """Return the kinds of the messages of a Segment call; the event is set by the first frame."""
    requests = [pb.SegmentRequest(options=pb.SegmentOptions(native_fps=True)), pb.SegmentRequest(chunk=clip)]
    with grpc.insecure_channel(target) as channel:
        answer = SegmentationStub(channel).Segment(iter(requests), timeout=GUARD_S)
        kinds: list[str] = []
        for message in answer:
            kinds.append(str(message.WhichOneof("payload")))
            if kinds[-1] == "frame":
                first_frame.set()
        return kinds


@pytest.mark.skipif(NGINX is None, reason="nginx is not here: apt-get install nginx-light")
def test_heartbeats_outlive_the_read_timeouts_of_nginx(tmp_path: Path) -> None:
    clip = make_clip(num_frames=NUM_FRAMES, width=32, height=32)
    hold = tmp_path / "hold"
    fakes = {"fake_item_s": ITEM_S, "fake_heartbeat_s": READ_TIMEOUT_S / 10, "fake_hold_file": hold}
    with (
        ServiceProcess(max_batch=MAX_BATCH, cache_bytes=0, **fakes) as service,
        nginx_in_front(service, tmp_path) as (url, target),
        ThreadPoolExecutor(2) as pool,
    ):
        for _ in range(NUM_TRIES):
            begun = [threading.Event(), threading.Event()]
            over_http = pool.submit(http_lines, url, clip, begun[0])
            over_grpc = pool.submit(grpc_messages, target, clip, begun[1])
            assert all(event.wait(GUARD_S) for event in begun)
            hold.touch()
            time.sleep(HELD_S)
            hold.unlink()
            answers = (over_http.result(), over_grpc.result())
            for kinds, last in zip(answers, ("end", "summary"), strict=True):
                assert kinds.count("frame") == NUM_FRAMES
                assert kinds[-1] == last, "the stream was cut"
            if all("heartbeat,heartbeat,heartbeat" in ",".join(kinds) for kinds in answers):
                return
        pytest.fail("no heartbeats")
