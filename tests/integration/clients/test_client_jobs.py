"""Jobs through the typed client, against a real front."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.inputs.clips import make_clip
from support.servers.front import running_front

from service.client.policy import ClientPolicy
from service.client.rest import RestClient
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions

CLIP = make_clip(width=96, height=64, num_frames=75, flash_frames=frozenset(range(30, 60)))


async def test_a_job_is_submitted_waited_for_read_and_erased(tmp_path: Path) -> None:
    async with running_front(state_dir=tmp_path) as front:
        await asyncio.to_thread(use, front.http_url, tmp_path)


def use(url: str, folder: Path) -> None:
    path = folder / "clip.mp4"
    path.write_bytes(CLIP)
    with RestClient(url, ClientPolicy(attempts=1)) as client:
        job = client.submit(path, SegmentOptions(fps=5))
        assert job.wait(60).state == "done"
        answer = job.result()
        same = client.segment(path, SegmentOptions(fps=5))
        assert (answer.frames, answer.events) == (same.frames, same.events)
        assert json.loads(job.download("coco")) == answer.to_coco()
        assert client.job(job.job_id).status().progress == 1.0
        job.cancel()
        with pytest.raises(ServiceError) as gone:
            job.status()
        assert gone.value.code == "job_not_found"
        kept, plain = client.submit(path, keep_clip=True), client.submit(path)
        assert [each.wait(60).state for each in (kept, plain)] == ["done", "done"]
        assert kept.download("overlay")[4:8] == b"ftyp"
        with pytest.raises(ServiceError) as deleted:
            plain.download("overlay")
        assert (deleted.value.code, "keep_clip=true" in deleted.value.detail) == ("not_acceptable", True)
        failed = client.submit(b"no clip")
        assert failed.wait(60).state == "failed"
        with pytest.raises(ServiceError) as problem:
            failed.result()
        assert problem.value.code == "not_mp4"
        with pytest.raises(ServiceError) as late:
            client.submit(CLIP).wait(0.0)
        assert late.value.code == "deadline_exceeded"
