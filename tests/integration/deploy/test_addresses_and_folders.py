"""What a container gives a process: IPv6 addresses, folders that cannot be written, full disks, a random user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.inputs.clips import make_clip
from support.servers.ports import free_port
from support.servers.service_process import ServiceProcess
from support.waiting import wait_until

GUARD_S = 120.0
ROOT = Path(__file__).parents[3]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, which only root can mount."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


# OpenShift's way to start a container: a uid that no file and no passwd entry knows, in group 0, without capabilities.
AS_RANDOM_USER = (
    "setpriv",
    "--reuid=1000730000",
    "--regid=0",
    "--clear-groups",
    "--bounding-set=-all",
    "--no-new-privs",
)
# Makes the interpreter readable where it lies in a home folder that is closed to others, in mounts of its own.
OPENED = ("unshare", "--mount", "--propagation=private", "bash", "-ec")
OPEN_HOME = """
mount -t tmpfs -o mode=755 tmpfs "$1"; mkdir "$1/kept"; mount --bind "$2" "$1/kept"
mount -t tmpfs -o mode=755 tmpfs "$3"; mkdir -p "$2"; mount --bind "$1/kept" "$2"; shift 3; exec "$@"
"""


@pytest.fixture
def as_random_user(tmp_path: Path) -> tuple[str, ...]:
    """The prefix of a command that a random user of group 0 runs."""
    if os.geteuid() != 0:
        pytest.skip("changing the user takes root")
    base = Path(sys.base_prefix)
    prefix = AS_RANDOM_USER
    if any(not folder.stat().st_mode & 1 for folder in (base, *base.parents)):
        home = Path(*base.parts[:2])
        prefix = (*OPENED, OPEN_HOME, "open", str(tmp_path), str(base), str(home), *AS_RANDOM_USER)
    tried = subprocess.run(
        [*prefix, sys.executable, "-c", "import service"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if tried.returncode:
        pytest.skip(f"another user cannot run Python here: {tried.stderr.strip()}")
    return prefix


def test_a_random_user_of_group_0_starts_answers_and_keeps_jobs(as_random_user: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o770)  # as the Dockerfile makes its folders: of group 0, closed to others
        made = [Path(folder, name) for name in ("spool", "state")]
        for path in made:
            path.mkdir()
            path.chmod(0o770)
        folders = {"spool_dir": made[0], "state_dir": made[1]}
        with (
            ServiceProcess(prefix=as_random_user, port=free_port(), **folders) as process,
            httpx.Client(base_url=process.url, timeout=GUARD_S) as client,
        ):
            ids = [line.split() for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines()]
            assert ["Uid:", *["1000730000"] * 4] in ids
            assert ["Gid:", *["0"] * 4] in ids
            assert client.get("/readyz").status_code == client.get("/livez").status_code == 200
            clip = {"video": make_clip(num_frames=20)}
            assert client.post("/v1/segment", files=clip).status_code == 200
            location = client.post("/v1/jobs", files=clip).headers["location"]
            wait_until(lambda: client.get(location).json()["state"] == "done")
            assert [path for path in made[1].rglob("*") if path.is_file()]


@pytest.mark.parametrize("host", ["::", "0.0.0.0"])
def test_every_address_answers_and_the_ready_line_says_so(host: str) -> None:
    with ServiceProcess(host=host) as process:
        port = httpx.URL(process.url).port
        answers = {"127.0.0.1": 200} | ({"[::1]": 200} if host == "::" else {})
        for address, status in answers.items():
            assert httpx.get(f"http://{address}:{port}/readyz", timeout=GUARD_S).status_code == status
        assert any("on all addresses" in line for line in process.lines)


def test_a_single_ipv6_address_stays_single() -> None:
    with ServiceProcess(host="::1") as process:
        assert process.url.startswith("http://[::1]:")
        assert httpx.get(f"{process.url}/readyz", timeout=GUARD_S).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{httpx.URL(process.url).port}/readyz", timeout=GUARD_S)


def test_a_spool_that_cannot_be_written_makes_the_front_unready_and_is_logged(tmp_path: Path) -> None:
    blocked = tmp_path / "spool"
    blocked.write_text("a file where a folder is wanted")
    with ServiceProcess(spool_dir=blocked) as process:
        refusal = httpx.get(f"{process.url}/readyz", timeout=GUARD_S)
        assert (refusal.status_code, refusal.json()["code"]) == (503, "backend_down")
        assert "spool" in refusal.json()["detail"]
        logged = json.loads(process.wait_for_line("the spool cannot be written"))
        assert logged["reason"].startswith(("FileExistsError", "NotADirectoryError"))
        assert httpx.get(f"{process.url}/livez", timeout=GUARD_S).status_code == 200
        blocked.unlink()
        assert httpx.get(f"{process.url}/readyz", timeout=GUARD_S).status_code == 200
        process.wait_for_line("the spool can be written again")


def test_a_spool_that_is_lost_while_the_front_runs_makes_it_unready_with_the_first_upload(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with ServiceProcess(spool_dir=spool) as process, httpx.Client(base_url=process.url, timeout=GUARD_S) as client:
        assert client.get("/readyz").status_code == 200
        shutil.rmtree(spool)
        spool.write_text("a file where the folder was")
        refused = client.post("/v1/segment", files={"video": make_clip(num_frames=20)})
        assert (refused.status_code, refused.json()["code"]) == (503, "backend_down")
        assert client.get("/readyz").json()["code"] == "backend_down"
        process.wait_for_line("the spool cannot be written")
        spool.unlink()
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/segment", files={"video": make_clip(num_frames=20)}).status_code == 200


def test_a_full_spool_is_507_and_leaves_nothing(small_disk: Path) -> None:
    with ServiceProcess(spool_dir=small_disk) as process, httpx.Client(base_url=process.url, timeout=GUARD_S) as client:
        large = {"video": make_clip(num_frames=20) + b"\0" * 5_000_000}
        for route in ("/v1/segment", "/v1/jobs"):
            answer = client.post(route, files=large)
            assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
            assert "retry-after" in answer.headers
        assert os.listdir(small_disk) == []
        assert os.statvfs(small_disk).f_bfree == os.statvfs(small_disk).f_blocks
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/segment", files={"video": make_clip(num_frames=20)}).status_code == 200


def test_a_full_disk_of_jobs_is_507_and_leaves_nothing_half_made(small_disk: Path) -> None:
    with (
        ServiceProcess(state_dir=small_disk, port=free_port()) as process,
        httpx.Client(base_url=process.url, timeout=GUARD_S) as client,
    ):
        large = {"video": make_clip(num_frames=20) + b"\0" * 5_000_000}
        for headers in ({}, {"Idempotency-Key": "one"}):
            answer = client.post("/v1/jobs", files=large, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (507, "storage_full"), answer.text
            assert "retry-after" in answer.headers
        assert [path for path in small_disk.rglob("*") if path.is_file()] == []
        accepted = client.post("/v1/jobs", files={"video": make_clip(num_frames=20)})
        assert accepted.status_code == 202
        wait_until(lambda: client.get(accepted.headers["location"]).json()["state"] == "done")
        wait_until(lambda: not [path for path in small_disk.rglob("upload*") if path.is_file()])
        assert client.get(accepted.headers["location"] + "/result").json()["frames"]


def test_a_full_state_folder_refuses_jobs_and_keyed_requests_alone(tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / f"port-{port}"
    folder.mkdir()
    (folder / "kept").write_bytes(b"\0" * (2**20 - 100))
    with (
        ServiceProcess(state_dir=tmp_path, state_bytes=2**20, port=port) as process,
        httpx.Client(base_url=process.url, timeout=GUARD_S) as client,
    ):
        clip = {"video": make_clip(num_frames=5)}
        for route, headers in (("/v1/jobs", {}), ("/v1/segment", {"Idempotency-Key": "k"})):
            answer = client.post(route, files=clip, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (507, "storage_full"), answer.text
            assert "retry-after" in answer.headers
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["kept"]
        assert client.post("/v1/segment", files=clip).status_code == 200


@pytest.mark.parametrize("name", ["AVES_PORT", "AVES_GRPC_PORT", "AVES_WORKER_PORT"])
def test_a_port_that_kubernetes_set_is_named_with_the_remedy(name: str) -> None:
    environment = {**os.environ, name: "tcp://10.96.0.17:8000"}
    command = [str(Path(sys.executable).parent / "avesformer"), "check-config"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert name in done.stderr
    assert "enableServiceLinks" in done.stderr
