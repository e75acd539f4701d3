"""Fronts with a job runner each over one store and one shelf, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from support.components.answer_stage import Shelf
from support.components.leased_jobs import FrontView, LeasedJobs
from support.components.unhurried import unhurried_turns
from support.virtual_time import run_virtual, virtual_clock
from support.waiting import until

from service.core.request_log import RequestLog
from service.domain.clip import ClipInfo
from service.domain.job import Job, ResultPut
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, Mask, Rle, Summary
from service.jobs.api import JobRequest, Jobs
from service.jobs.parts import JobPolicy, RunnerParts
from service.jobs.runner import JobRunner
from service.media.spool import Spool
from service.media.upload import Upload
from service.postprocess.stages import AnswerStages
from service.predictors.fake import FakePredictor
from service.telemetry.metrics import Metrics

LEASE_S = 10.0
TTL_S = 100.0
NUM_FRAMES = 8
FRAME_S = 0.5
OWNER = "me"
Tell = Callable[[Job], Awaitable[None]]


class Paced:
    """An Answering that takes half a second a frame, and fails as it is told.

    Attributes:
        scores: label and score of the masks of each frame; frames beyond have none.
    """

    def __init__(self) -> None:
        self.scores: list[dict[str, float]] = []
        self.failures: list[Exception] = []
        self.contexts: list[RequestContext] = []
        self.computed: list[int] = []
        self.model = FakePredictor().info
        self.size = (4, 3)
        self.num_inside = 0
        self.most_inside = 0
        self.num_cut = 0

    async def check(self, options: SegmentOptions) -> None:
        return

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        stages = AnswerStages(options)
        async with aclosing(self._masks(options, context)) as events:
            async for event in events:
                for staged in stages.add(event):
                    yield staged

    async def _masks(self, options: SegmentOptions, context: RequestContext) -> AsyncGenerator[AnswerEvent, None]:
        self.contexts.append(context)
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        model = self.model
        is_whole = False
        try:
            clip = ClipInfo(*self.size, "1:1", 2.0, 25.0, NUM_FRAMES)
            num_samples = 0
            yield ClipStarted(context.request_id, model, clip, options.resolve(model))
            for number in range(NUM_FRAMES):
                if number + 0.9375 < options.start_s:
                    continue
                await asyncio.sleep(FRAME_S)
                self.computed.append(number)
                if self.failures and number == NUM_FRAMES // 2:
                    raise self.failures.pop(0)
                num_samples += 1
                yield FrameMasks(number + 0.9375, float(number), number, self._masks_of(number))
            yield Summary(num_samples, {"total": 1.0})
            is_whole = True
        finally:
            self.num_inside -= 1
            self.num_cut += not is_whole

    def _masks_of(self, number: int) -> tuple[Mask, ...]:
        scores = self.scores[number] if number < len(self.scores) else {}
        rle = Rle((3, 4), "abc")
        return tuple(Mask(label, score, 4, (0, 0, 2, 2), rle) for label, score in scores.items())


class Site:
    """Fronts over one store and one shelf."""

    def __init__(self, folder: Path) -> None:
        self.shared = LeasedJobs(lease_s=LEASE_S, ttl_s=TTL_S, clock=virtual_clock)
        self.shelf = Shelf(clock=virtual_clock)
        self.paced = Paced()
        self.spool = Spool(folder, max_bytes=2**20)
        self.told: list[Job] = []
        self.sent: list[Job] = []
        self.num_unsent = 0
        self.send_s = 1.0
        self.send_failure: Exception | None = None
        self.view = FrontView(self.shared)
        self.jobs = self.jobs_of(self.view)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Site:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def jobs_of(self, view: FrontView) -> Jobs:
        def check(url: str) -> None:
            return

        return Jobs(
            view,
            self.shelf,
            max_waiting=10,
            check_webhook=check,
            check_result_url=check,
            turns=unhurried_turns(),
            wall_clock=virtual_clock,
        )

    def front(self, *, view: FrontView | None = None, tell: Tell | None = None, **policy: float) -> JobRunner:
        """A started runner."""

        async def note(job: Job) -> None:
            self.told.append(job)

        parts = RunnerParts(
            view or self.view,
            self.shelf,
            self.paced,
            self.spool,
            RequestLog(metrics=Metrics(), clock=virtual_clock),
            tell or note,
            self._send_result,
        )
        made = JobPolicy(lease_s=LEASE_S, **policy)  # type: ignore[arg-type]
        runner = JobRunner(parts, made, max_upload_bytes=1000, clock=virtual_clock, wall_clock=virtual_clock)
        self.jobs.on_added, self.jobs.on_erased = runner.wake, runner.drop
        runner.start()
        self._stack.push_async_callback(runner.aclose)
        return runner

    async def submit(
        self,
        *,
        webhook: str | None = None,
        result_url: str | None = None,
        result_format: str = "json",
        keeps_clip: bool = False,
        options: SegmentOptions | None = None,
    ) -> Job:
        upload = await self.spool.open_upload(max_bytes=1000)
        await upload.write(b"clip" * 60)
        upload.finish()
        try:
            request = JobRequest(
                "r",
                OWNER,
                options or SegmentOptions(),
                may_use_cache=False,
                webhook=webhook,
                result_url=result_url,
                result_format=result_format,
                keeps_clip=keeps_clip,
            )
            return await self.jobs.submit(upload, request)
        finally:
            upload.close()

    async def _send_result(self, job: Job) -> ResultPut:
        self.sent.append(job)
        try:
            await asyncio.sleep(self.send_s)
        except asyncio.CancelledError:
            self.num_unsent += 1
            raise
        if self.send_failure is not None:
            raise self.send_failure
        return ResultPut("sent")

    async def until_settled(self, job: Job) -> Job:
        await until(lambda: job.job_id in self.shared.settled_at_s, hang_s=10_000, pause_s=0.1)
        return self.shared.jobs[job.job_id]

    async def frames(self, job: Job) -> list[int]:
        events = [event async for event in self.jobs.answer(self.shared.jobs[job.job_id])]
        assert isinstance(events[0], ClipStarted)
        assert isinstance(events[-1], Summary)
        return [event.index for event in events if isinstance(event, FrameMasks)]


def play(folder: Path, scene: Callable[[Site], Coroutine[object, object, None]]) -> None:
    """Play a scene on virtual time."""

    async def whole() -> None:
        async with Site(folder) as site:
            await scene(site)

    run_virtual(whole())
