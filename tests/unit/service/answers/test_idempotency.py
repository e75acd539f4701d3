"""Idempotency keys over a scripted pipeline: what is remembered, what is not, and what a fault may cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.components.answer_stage import Shelf, Stage
from support.components.unhurried import unhurried_turns

from service.answers.idempotency import Idempotency, IdempotentAnswering
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.media.spool import Spool
from service.ports import KeyRecord
from service.storage.keys import FolderKeyStore

HANG_S = 20


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with asyncio.timeout(HANG_S):
        yield Stage(tmp_path)


def keyed(stage: Stage, *, keys: FolderKeyStore | None = None, max_bytes: int = 10_000) -> Shelf:
    """Keys before the stage's script; the shelf that its answers are remembered on."""
    shelf = Shelf()
    idempotency = Idempotency(keys or FolderKeyStore(None, wall_clock=time.time), ttl_s=60)
    room = Spool(stage.spool.directory, max_bytes=max_bytes)
    stage.cached = IdempotentAnswering(  # type: ignore[assignment]
        stage.script, idempotency, shelf, room, turns=unhurried_turns(), clock=time.monotonic
    )
    return shelf


async def test_a_running_key_is_said_to_run_and_then_answers(stage: Stage) -> None:
    keyed(stage)
    first = asyncio.create_task(stage.ask("one", idempotency_key="k"))
    await asyncio.sleep(0.05)
    with pytest.raises(ServiceError) as caught:
        await stage.ask("two", idempotency_key="k")
    assert caught.value.code == "idempotency_in_progress"
    stage.script.gate.set()
    assert await first == await stage.ask("three", idempotency_key="k")
    with pytest.raises(ServiceError) as caught:
        await stage.ask("four", b"other", idempotency_key="k")
    assert caught.value.code == "idempotency_mismatch"
    assert stage.script.num_started == 1
    await stage.ask("five", b"other", idempotency_key="k", owner="another caller")
    await stage.ask("six", b"other", idempotency_key="k", options=SegmentOptions(fps=2))
    assert stage.script.num_started == 3


@pytest.mark.parametrize(
    ("code", "is_remembered"),
    [("broken", True), ("no_audio", True), ("internal", False), ("queue_full", False), ("deadline_exceeded", False)],
)
async def test_only_final_failures_are_remembered(stage: Stage, code: str, is_remembered: bool) -> None:
    keyed(stage)
    stage.script.gate.set()
    stage.script.error = ServiceError(code, "why")
    for _ in range(2):
        with pytest.raises(ServiceError) as caught:
            await stage.ask("r", idempotency_key="k")
        assert caught.value.code == code
    assert stage.script.num_started == (1 if is_remembered else 2)


async def test_a_broken_off_request_frees_its_key(stage: Stage) -> None:
    keyed(stage)
    first = asyncio.create_task(stage.ask("one", idempotency_key="k"))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    stage.script.gate.set()
    assert len(await stage.ask("two", idempotency_key="k")) == 5


async def test_an_answer_that_is_too_large_is_computed_again(stage: Stage) -> None:
    shelf = keyed(stage, max_bytes=600)
    stage.script.gate.set()
    assert await stage.ask("one", idempotency_key="k") == await stage.ask("one", idempotency_key="k")
    assert (stage.script.num_started, shelf.blobs) == (2, {})


async def test_a_full_shelf_costs_the_memory_not_the_answer(stage: Stage) -> None:
    shelf = keyed(stage)
    shelf.error = ServiceError("storage_full", "no room")
    stage.script.gate.set()
    assert len(await stage.ask("one", idempotency_key="k")) == 5
    shelf.error = None
    assert len(await stage.ask("two", idempotency_key="k")) == 5
    assert len(await stage.ask("three", idempotency_key="k")) == 5
    assert stage.script.num_started == 2


class StuckKeys(FolderKeyStore):
    """A store that does not answer."""

    async def begin(self, scope: str, fingerprint: str, *, lease_s: float) -> KeyRecord | None:
        await asyncio.Event().wait()
        raise AssertionError("never")


async def test_keys_that_do_not_answer_hold_nobody_past_its_deadline(stage: Stage) -> None:
    keyed(stage, keys=StuckKeys(None, wall_clock=time.time))
    with pytest.raises(ServiceError) as caught:
        await stage.ask("one", idempotency_key="k", deadline=Deadline(time.monotonic() + 0.05))
    assert caught.value.code == "deadline_exceeded"
    assert stage.script.num_started == 0
