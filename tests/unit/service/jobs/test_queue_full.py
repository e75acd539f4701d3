"""What a full queue of jobs answers, and what a job that cannot be stored leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.components.answer_stage import Shelf
from support.components.unhurried import unhurried_turns

from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.jobs.api import JobRequest, Jobs
from service.media.spool import Spool

REQUEST = JobRequest(request_id="r", owner="", options=SegmentOptions())


class Store:
    """A job store with a given queue that may refuse to add."""

    def __init__(self, num_waiting: int = 0, error: ServiceError | None = None) -> None:
        self._num_waiting = num_waiting
        self._error = error

    async def num_waiting(self) -> int:
        return self._num_waiting

    async def add(self, job: Any) -> None:
        if self._error is not None:
            raise self._error


def jobs_of(store: Store, shelf: Shelf) -> Jobs:
    return Jobs(
        store,  # type: ignore[arg-type]
        shelf,  # type: ignore[arg-type]
        max_waiting=1000,
        check_webhook=print,
        check_result_url=print,
        turns=unhurried_turns(),
        wall_clock=lambda: 0.0,
    )


@pytest.mark.parametrize(
    ("seconds_per_job", "retry_after_s"), [(None, 30.0), (0.5, 10.0), (0.001, 1.0), (3.0, 60.0), (500.0, 600.0)]
)
async def test_retry_after_follows_the_drain_rate(
    seconds_per_job: float | None, retry_after_s: float, tmp_path: Path
) -> None:
    jobs = jobs_of(Store(num_waiting=1000), Shelf())
    jobs.seconds_per_job = lambda: seconds_per_job
    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    with pytest.raises(ServiceError) as caught:
        await jobs.submit(upload, REQUEST)
    upload.close()
    assert (caught.value.code, caught.value.retry_after_s) == ("queue_full", retry_after_s)


async def test_a_job_that_cannot_be_stored_leaves_no_upload(tmp_path: Path) -> None:
    shelf = Shelf()
    jobs = jobs_of(Store(error=ServiceError("storage_full", "full")), shelf)
    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    await upload.write(b"clip")
    upload.finish()
    with pytest.raises(ServiceError, match="full"):
        await jobs.submit(upload, REQUEST)
    upload.close()
    assert shelf.blobs == {}
