"""Where jobs are kept: no warning of a folder that nothing needs, a true one where jobs will be lost."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
from support.servers.front import running_front
from support.servers.ports import free_port
from support.servers.redis_server import RedisServer

WARNING = "the state folder cannot be created"


@pytest.fixture
def closed_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nobody, not even root, can make a folder, as in an image with a read-only root."""
    home = tmp_path / "home"
    home.write_text("a file where a folder is wanted")
    monkeypatch.setenv("HOME", str(home))
    return home


def num_warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(WARNING in record.message for record in caplog.records)


@pytest.mark.redis
async def test_fronts_with_redis_and_a_blob_store_need_no_state_folder(
    closed_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The front of the compose files."""
    with RedisServer(tmp_path / "redis") as server, caplog.at_level(logging.WARNING):
        async with running_front(redis_url=server.url, blob_url=str(tmp_path / "blobs"), is_warm=False):
            pass
    assert num_warnings(caplog) == 0


async def test_a_state_folder_that_is_set_takes_the_place_of_home(
    closed_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    async with running_front(port=free_port(), state_dir=state):
        assert [path for path in state.rglob("jobs") if path.is_dir()]
    assert num_warnings(caplog) == 0


async def test_jobs_that_will_not_survive_are_accepted_with_a_warning(
    closed_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = (Path(__file__).parents[2] / "assets" / "synthetic.mp4").read_bytes()
    async with running_front(port=free_port()) as front, httpx.AsyncClient(base_url=front.http_url) as client:
        answer = await client.post("/v1/jobs", content=clip, headers={"Content-Type": "video/mp4"}, timeout=60)
        assert answer.status_code == 202, answer.text
    assert num_warnings(caplog) == 1
