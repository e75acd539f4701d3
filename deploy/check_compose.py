"""Drive the compose stack on a running Docker engine and check what users rely on; deploy/check_compose calls it.

Steps, each printed with its seconds: up (all healthy), a clip, two fronts and two workers, answers while a worker is
killed, a clip and a job under a random user, jobs under way while everything restarts, down without an anonymous
volume.
Standard library only. The files come from COMPOSE_FILE, the services from CHECK_SERVICES (default: all).
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIP = Path(__file__).resolve().parents[1] / "tests" / "assets" / "example.mp4"
SERVICES = os.environ.get("CHECK_SERVICES", "").split()
PORTS = range(8000, 8004)
GUARD_S = 300.0
# Of a container that is no part of the stack.
RANDOM_UID, RANDOM_PORT = 1234567, 8004
NUM_REQUESTS, NUM_CLIENTS, NUM_JOBS = 40, 8, 12
# Ranges, so that several fronts find a free port each.
os.environ.update(AVES_PORT=f"{PORTS[0]}-{PORTS[-1]}", AVES_GRPC_PORT="50051-50054")


class CheckError(Exception):
    """Something is not as users expect it."""


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def compose(*arguments: str, is_checked: bool = True) -> str:
    """Run `docker compose` and return what it prints."""
    done = subprocess.run(["docker", "compose", *arguments], text=True, capture_output=True, timeout=600, check=False)
    if is_checked and done.returncode:
        raise CheckError(f"docker compose {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def docker(*arguments: str) -> str:
    """Run `docker` and return what it prints."""
    return subprocess.run(["docker", *arguments], text=True, stdout=subprocess.PIPE, timeout=120, check=True).stdout


def need(is_right: bool, message: str) -> None:
    """Raise CheckError unless it is right."""
    if not is_right:
        raise CheckError(message)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print a step and how long it took."""
    started_s = time.monotonic()
    yield
    say(f"ok  {name} ({time.monotonic() - started_s:.1f} s)")


def ask(method: str, path: str, *, port: int = PORTS[0], body: bytes = b"", kind: str = "") -> tuple[int, Any]:
    """Send one request; return status and decoded JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_S)
    try:
        connection.request(method, path, body or None, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None
    finally:
        connection.close()


def send_clip(path: str, *, port: int, threshold: float) -> tuple[int, Any]:
    """Post the example clip with a threshold of its own, so that no answer comes from the cache."""
    return ask("POST", f"{path}?threshold={threshold:.4f}", port=port, body=CLIP.read_bytes(), kind="video/mp4")


def published_ports() -> list[int]:
    """Return the REST ports of all fronts."""
    found = []
    for container in compose("ps", "--quiet", "front").split():
        found.append(int(docker("port", container, "8000/tcp").splitlines()[0].rpartition(":")[2]))
    return sorted(found)


def containers(service: str) -> list[str]:
    """Return the ids of the containers of a service that run."""
    return compose("ps", "--quiet", service).split()


def up(*scale: str) -> None:
    """Start what is missing and wait until all is healthy."""
    compose("up", "--detach", "--wait", "--no-build", *scale, *SERVICES)


def check_answers_while_a_worker_dies(ports: list[int]) -> None:
    """Every request is answered although a worker is killed under load."""
    with concurrent.futures.ThreadPoolExecutor(NUM_CLIENTS) as clients:
        asked = [
            clients.submit(send_clip, "/v1/segment", port=ports[n % len(ports)], threshold=0.4 + n / 1000)
            for n in range(NUM_REQUESTS)
        ]
        concurrent.futures.wait(asked, return_when=concurrent.futures.FIRST_COMPLETED)
        docker("kill", containers("worker")[0])
        answers = [future.result() for future in asked]
    failed = [answer for answer in answers if answer[0] != 200]
    need(not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:2]}")
    need(all(answer[1]["frames"] for answer in answers), "an answer has no frames")


def check_jobs_over_a_restart() -> None:
    """Every accepted job ends although all of the stack restarts with jobs under way."""
    port = published_ports()[0]
    accepted = [send_clip("/v1/jobs", port=port, threshold=0.5 + n / 1000) for n in range(NUM_JOBS)]
    need(all(status == 202 for status, _ in accepted), f"jobs were not accepted: {accepted[0]}")
    waiting = {job["job_id"] for _, job in accepted}
    states = {job_id: ask("GET", f"/v1/jobs/{job_id}", port=port)[1]["state"] for job_id in waiting}
    need(any(state in ("queued", "running") for state in states.values()), "all jobs ended before the restart")
    compose("down", "--timeout", "60")
    up()
    wait_for_jobs(waiting, port=published_ports()[0])


def wait_for_jobs(jobs: set[str], *, port: int) -> None:
    """Wait until every job is done; raises CheckError if one fails."""
    waiting = set(jobs)
    until_s = time.monotonic() + GUARD_S
    while waiting:
        need(time.monotonic() < until_s, f"jobs did not end: {waiting}")
        for job_id in list(waiting):
            status, job = ask("GET", f"/v1/jobs/{job_id}", port=port)
            need(status == 200 and job["state"] != "failed", f"job {job_id}: {status} {job}")
            if job["state"] == "done":
                waiting.remove(job_id)
        time.sleep(0.5)


def check_random_user() -> None:
    """The image starts under a random uid of group 0, becomes healthy and answers, as on OpenShift, without Redis."""
    name = f"avesformer-random-{uuid.uuid4().hex[:8]}"
    image = docker("inspect", "--format", "{{.Config.Image}}", containers("worker")[0]).strip()
    options = ["--read-only", "--cap-drop=ALL", "--tmpfs=/tmp", f"--user={RANDOM_UID}:0", "--env=AVES_HOST=::"]
    options.append(f"--publish=127.0.0.1:{RANDOM_PORT}:8000")
    try:
        docker("run", "--detach", "--name", name, *options, image, "serve", "--device", "cpu")
        until_s = time.monotonic() + GUARD_S
        while (state := docker("inspect", "--format", "{{.State.Health.Status}}", name).strip()) != "healthy":
            if time.monotonic() > until_s:
                raise CheckError(f"{state}: {docker('logs', '--tail', '20', name)}")
            time.sleep(1)
        uids = {
            line.split()[0] for line in docker("top", name, "-eo", "uid,pid,args").splitlines() if "avesformer" in line
        }
        need(uids == {str(RANDOM_UID)}, f"processes run under {uids}")
        status, answer = send_clip("/v1/segment", port=RANDOM_PORT, threshold=0.5)
        need(status == 200 and len(answer["frames"]) > 0, f"{status} {answer}")
        status, job = send_clip("/v1/jobs", port=RANDOM_PORT, threshold=0.6)
        need(status == 202, f"{status} {job}")
        wait_for_jobs({job["job_id"]}, port=RANDOM_PORT)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], stdout=subprocess.DEVNULL, check=False)


def anonymous_volumes() -> set[str]:
    """Return the volumes that nobody named."""
    return {name for name in docker("volume", "ls", "--quiet").split() if len(name) == 64}


def run_checks() -> None:
    """Run every step; raises CheckError."""
    before = anonymous_volumes()
    with step("up, all healthy"):
        up()
    with step("a clip is answered"):
        status, answer = send_clip("/v1/segment", port=published_ports()[0], threshold=0.5)
        need(status == 200 and len(answer["frames"]) > 0, f"{status} {answer}")
    with step("logs of the start hold no warning of ours"):
        lines = compose("logs", "--no-log-prefix", "front", "worker").splitlines()
        need(not (found := [line for line in lines if '"level": "warning"' in line]), f"{found[:3]}")
    with step("two fronts and two workers"):
        up("--scale", "front=2", "--scale", "worker=2")
        need(len(set(published_ports())) == 2, f"ports {published_ports()}")
    with step(f"{NUM_REQUESTS} of {NUM_REQUESTS} answers while a worker is killed"):
        check_answers_while_a_worker_dies(published_ports())
    with step("the image answers a clip and a job under a random user of group 0 with AVES_HOST=::"):
        check_random_user()
    with step(f"{NUM_JOBS} of {NUM_JOBS} jobs end after down and up"):
        check_jobs_over_a_restart()
    with step("down leaves no anonymous volume"):
        compose("down", "--timeout", "60")
        need(not (left := anonymous_volumes() - before), f"left behind: {left}")


def main() -> int:
    """Return 0 if every step is right; the stack and its volumes are removed in any case."""
    try:
        run_checks()
    except (CheckError, subprocess.SubprocessError, OSError) as error:
        say(f"FAILED: {error}")
        say(compose("logs", "--tail", "30", "front", "worker", is_checked=False)[-6000:])
        return 1
    finally:
        compose("down", "--volumes", "--timeout", "30", is_checked=False)
    say("check-compose: everything is as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
