"""A job: an upload that is answered later, even if the process that works on it crashes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions

JobState = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class ResultPut:
    """Whether the result of a job has been put to its `result_url`: not yet (`waiting`), `sent`, or why not."""

    state: Literal["waiting", "sent", "failed"]
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """State of a job. Its upload and its answer are blobs.

    Attributes:
        job_id: 128 random bits in hex.
        owner: key id of the caller; empty where no keys are set.
        request_id: of the request that submitted it; also that of its answer.
        options: as requested.
        may_use_cache: False after `Cache-Control: no-cache`.
        webhook: address that receives the final state, signed with `webhook_secret`.
        result_url: address that the result is put to; None once that has ended, because it may hold a signature.
        result_format: format of that result.
        result_put: how that went; None where no address was given.
        keeps_clip: whether the upload is kept as long as the result, so that the result can be had as an overlay.
        created_at_s, started_at_s, ended_at_s: seconds since 1970.
        state: `done`, `failed` and `cancelled` are final. A cancelled job is erased, so only followers of its events
            see that state.
        progress: share of answered samples, 0 to 1.
        attempt: number of runs started; each run writes its own parts, behind those that it continues.
        num_deaths: number of runs in a row whose process crashed before it had stored anything.
        part_starts: for each stored part of the answer, the number of its first line.
        part_attempts: for each stored part, the run that wrote it.
        num_lines_continued: number of lines that were stored when the last run started.
        num_lines: number of stored lines of the answer.
        track_state: name of the blob with the state of the instance tracker at or before the last stored sample; empty
            without `instances`, and until the first one is stored.
        code, detail: error of a failed job.
        traceparent: span of the request that submitted it; empty without one.
    """

    job_id: str
    owner: str
    request_id: str
    options: SegmentOptions
    created_at_s: float
    may_use_cache: bool = True
    webhook: str | None = None
    webhook_secret: str | None = None
    result_url: str | None = None
    result_format: str = "json"
    result_put: ResultPut | None = None
    keeps_clip: bool = False
    state: JobState = "queued"
    started_at_s: float | None = None
    ended_at_s: float | None = None
    progress: float = 0.0
    attempt: int = 0
    num_deaths: int = 0
    part_starts: tuple[int, ...] = ()
    part_attempts: tuple[int, ...] = ()
    num_lines: int = 0
    num_lines_continued: int = 0
    track_state: str = ""
    code: str | None = None
    detail: str | None = None
    traceparent: str = ""

    @property
    def has_ended(self) -> bool:
        """Return whether the state is final."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def has_clip(self) -> bool:
        """Return whether a finished job still needs its upload: it keeps it, or an overlay of it is to be put."""
        return self.keeps_clip or (self.result_url is not None and self.result_format == "overlay")

    @property
    def failure(self) -> ServiceError | None:
        """Return the error of a failed job."""
        return None if self.code is None else ServiceError(self.code, self.detail or "")

    def blob_prefix(self) -> str:
        """Return the prefix of its blobs."""
        return f"jobs/{self.job_id}"

    def upload_name(self) -> str:
        """Return the name of the blob of its upload."""
        return f"{self.blob_prefix()}/upload"

    def part_name(self, number: int) -> str:
        """Return the name of the blob of a part of its answer; of the next part, where it is to be written."""
        attempt = self.part_attempts[number] if number < len(self.part_attempts) else self.attempt
        return f"{self.blob_prefix()}/{attempt}/{number}"

    def next_track_state(self) -> str:
        """Return the name of the blob for the state of the instance tracker that is stored with the next part."""
        return f"{self.blob_prefix()}/{self.attempt}/tracks-{len(self.part_starts)}"
