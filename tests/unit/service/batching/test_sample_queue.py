"""The waiting room: bounds, shares, order, priorities; invariants by random operations."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.components.chunks import make_chunk

from service.batching.sample_queue import PendingChunk, SampleQueue, SampleSlice
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError


@pytest.fixture(name="loop")
def _loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make_queue(*, max_samples: int = 1000, max_bytes: int = 10**9, job_patience_s: float = 1.0) -> SampleQueue:
    return SampleQueue(max_samples=max_samples, max_bytes=max_bytes, job_patience_s=job_patience_s)


def pending(
    loop: asyncio.AbstractEventLoop, request_id: str, num: int = 4, *, at_s: float = 0.0, **more
) -> PendingChunk:
    return PendingChunk(make_chunk(request_id, num, **more), at_s, loop.create_future())


def shares(slices: list[SampleSlice]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for piece in slices:
        counts[piece.pending.request_id] += len(piece)
    return counts


def test_a_chunk_is_split_over_batches_in_order(loop):
    queue = make_queue()
    chunk = pending(loop, "a", 10)
    queue.add(chunk)
    spans = []
    while queue.num_samples:
        spans += [(piece.start, piece.stop) for piece in queue.take(4, now_s=0.0)]
    assert spans == [(0, 4), (4, 8), (8, 10)]
    assert queue.num_bytes == 0
    assert not queue.has_request("a")


def test_no_request_takes_more_than_its_share_while_others_wait(loop):
    queue = make_queue()
    for number in range(4):
        queue.add(pending(loop, "greedy", 32, chunk_no=number))
    queue.add(pending(loop, "b", 3))
    queue.add(pending(loop, "c", 30))
    assert shares(queue.take(16, now_s=0.0)) == {"greedy": 7, "b": 3, "c": 6}


def test_with_more_requests_than_places_all_get_their_turn(loop):
    queue = make_queue()
    for name in "abcdef":
        queue.add(pending(loop, name, 4))
    served: Counter[str] = Counter()
    for _ in range(3):
        served += shares(queue.take(2, now_s=0.0))
    assert served == dict.fromkeys("abcdef", 1)


def test_people_go_before_jobs_and_jobs_fill_what_is_left(loop):
    queue = make_queue()
    queue.add(pending(loop, "job", 32, is_interactive=False))
    queue.add(pending(loop, "person", 5))
    slices = queue.take(8, now_s=0.5)
    assert [piece.pending.request_id for piece in slices] == ["person", "job"]
    assert shares(slices) == {"person": 5, "job": 3}


@pytest.mark.parametrize("limit", [1, 2, 4, 16])
def test_jobs_do_not_starve_and_get_an_eighth_once_patience_is_over(loop, limit):
    queue = make_queue(max_samples=10**6)
    queue.add(pending(loop, "job", 32, is_interactive=False))
    taken: Counter[str] = Counter()
    for number in range(64 // limit):
        queue.add(pending(loop, f"person{number}", 32))
        for name, num in shares(queue.take(limit, now_s=5.0)).items():
            taken[name.rstrip("0123456789")] += num
    assert taken == {"job": 8, "person": 56}


def test_bounds_refuse_with_a_hint_and_leave_the_queue_as_it_was(loop):
    by_samples = make_queue(max_samples=5)
    by_samples.add(pending(loop, "a", 4))
    with pytest.raises(ServiceError) as caught:
        by_samples.add(pending(loop, "b", 2), retry_after_s=3.5)
    assert (caught.value.code, caught.value.retry_after_s) == ("queue_full", 3.5)
    assert by_samples.num_samples == 4
    assert not by_samples.has_request("b")
    by_samples.add(pending(loop, "b", 1))
    weight = make_chunk("a", 4).samples.num_bytes
    by_bytes = make_queue(max_bytes=weight)
    by_bytes.add(pending(loop, "a", 4))
    with pytest.raises(ServiceError):
        by_bytes.add(pending(loop, "b", 1))


def test_drop_takes_out_what_waits_and_is_harmless_otherwise(loop):
    queue = make_queue()
    first, second = pending(loop, "a", 4), pending(loop, "a", 6, chunk_no=1)
    queue.add(first)
    queue.add(second)
    queue.take(3, now_s=0.0)
    queue.drop(first)
    queue.drop(first)
    assert queue.num_samples == 6
    assert queue.num_bytes == second.chunk.samples.num_bytes
    queue.drop(second)
    assert (queue.num_samples, queue.num_bytes, queue.chunks()) == (0, 0, [])


def test_age_and_expiry(loop):
    queue = make_queue()
    assert queue.oldest_age_s(now_s=9.0) == 0.0
    late = pending(loop, "late", at_s=2.0, deadline=Deadline(5.0))
    queue.add(pending(loop, "a", at_s=1.0))
    queue.add(late)
    assert queue.oldest_age_s(now_s=4.0) == 3.0
    assert queue.expired(now_s=4.9) == []
    assert queue.expired(now_s=5.0) == [late]


class QueueMachine(RuleBasedStateMachine):
    """Random adds, takes and drops: every sample leaves exactly once, in order, within the bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = make_queue(max_samples=40, job_patience_s=3.0)
        self.now_s = 0.0
        self.number = 0
        self.waiting: dict[PendingChunk, int] = {}

    def teardown(self) -> None:
        self.loop.close()

    @rule(name=st.sampled_from("abcd"), num=st.integers(1, 12), is_interactive=st.booleans())
    def add(self, name: str, num: int, is_interactive: bool) -> None:
        self.number += 1
        request_id = name if is_interactive else f"job-{name}"
        chunk = PendingChunk(
            make_chunk(request_id, num, chunk_no=self.number, size_px=16, is_interactive=is_interactive),
            self.now_s,
            self.loop.create_future(),
        )
        has_room = sum(self.waiting.values()) + num <= 40
        if has_room:
            self.queue.add(chunk)
            self.waiting[chunk] = num
        else:
            with pytest.raises(ServiceError):
                self.queue.add(chunk)

    @rule(limit=st.integers(1, 16), passed_s=st.floats(0, 2))
    def take(self, limit: int, passed_s: float) -> None:
        self.now_s += passed_s
        total = sum(self.waiting.values())
        slices = self.queue.take(limit, now_s=self.now_s)
        assert sum(map(len, slices)) == min(limit, total)
        for piece in slices:
            size = len(piece.pending.frames)
            assert piece.start == size - self.waiting[piece.pending]
            self.waiting[piece.pending] -= len(piece)
            assert piece.stop == size - self.waiting[piece.pending]
            earlier = [other for other in self.waiting if other.request_id == piece.pending.request_id]
            before = earlier[: earlier.index(piece.pending)]
            assert not any(self.waiting[other] for other in before), "a later chunk overtook an earlier one"
        self.waiting = {chunk: num for chunk, num in self.waiting.items() if num}

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(list(self.waiting)))
        self.queue.drop(chunk)
        del self.waiting[chunk]

    @invariant()
    def counts_are_right(self) -> None:
        assert self.queue.num_samples == sum(self.waiting.values())
        assert self.queue.num_bytes == sum(chunk.chunk.samples.num_bytes for chunk in self.waiting)
        assert set(self.queue.chunks()) == set(self.waiting)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=30)
