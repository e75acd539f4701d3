"""A job: an upload that is answered later, whatever process dies in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions

JobState = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that is kept of a job; its upload and its answer are blobs.

    Attributes:
        job_id: 128 random bits in hex.
        owner: key id of the caller, empty where no keys are asked.
        request_id: of the request that brought it; also that of its answer.
        options: as asked for.
        may_use_cache: False after `Cache-Control: no-cache`.
        webhook: where its end is told, with `webhook_secret` as the key of the signature.
        created_at_s, started_at_s, ended_at_s: seconds since 1970.
        state: `done`, `failed` and `cancelled` are final. A cancelled job is erased, so only followers of its events
            see that state.
        progress: share of samples answered, 0 to 1.
        attempt: runs begun; each writes its own parts.
        num_deaths: runs whose process died.
        part_starts: per part of the answer that is stored, the number of its first line.
        num_lines: lines of the answer that are stored.
        code, detail: why it failed.
        traceparent: names the span of the request that brought it; empty where there is none.
    """

    job_id: str
    owner: str
    request_id: str
    options: SegmentOptions
    created_at_s: float
    may_use_cache: bool = True
    webhook: str | None = None
    webhook_secret: str | None = None
    state: JobState = "queued"
    started_at_s: float | None = None
    ended_at_s: float | None = None
    progress: float = 0.0
    attempt: int = 0
    num_deaths: int = 0
    part_starts: tuple[int, ...] = ()
    num_lines: int = 0
    code: str | None = None
    detail: str | None = None
    traceparent: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def failure(self) -> ServiceError | None:
        """Why it failed, as an error of the table."""
        return None if self.code is None else ServiceError(self.code, self.detail or "")

    def blob_prefix(self) -> str:
        """Where its blobs are."""
        return f"jobs/{self.job_id}"

    def upload_name(self) -> str:
        """The blob of its upload."""
        return f"{self.blob_prefix()}/upload"

    def part_name(self, number: int) -> str:
        """The blob of a part of its answer."""
        return f"{self.blob_prefix()}/{self.attempt}/{number}"
