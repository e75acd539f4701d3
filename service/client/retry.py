"""Retries of retryable errors, with the server's delay, as often as the policy allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from service.client.answer import Answer, AnswerGatherer, OnEvent
from service.client.policy import ClientPolicy
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent

_R = TypeVar("_R")


def retried(work: Callable[[], _R], policy: ClientPolicy) -> _R:
    """Return the result of `work` at its first success; raises its last ServiceError."""
    attempt = 1
    while True:
        try:
            return work()
        except ServiceError as error:
            time.sleep(_delay_s(error, policy, attempt))
            attempt += 1


async def retried_async(work: Callable[[], Awaitable[_R]], policy: ClientPolicy) -> _R:
    """Like `retried`, for asyncio."""
    attempt = 1
    while True:
        try:
            return await work()
        except ServiceError as error:
            await asyncio.sleep(_delay_s(error, policy, attempt))
            attempt += 1


def gather(events: Iterator[AnswerEvent], *, on_event: OnEvent | None) -> Answer:
    """Return the whole answer of a stream of events."""
    gatherer = AnswerGatherer(on_event)
    for event in events:
        gatherer.take(event)
    return gatherer.answer()


async def gather_async(events: AsyncIterator[AnswerEvent], *, on_event: OnEvent | None) -> Answer:
    """Like `gather`, for asyncio."""
    gatherer = AnswerGatherer(on_event)
    async for event in events:
        gatherer.take(event)
    return gatherer.answer()


def _delay_s(error: ServiceError, policy: ClientPolicy, attempt: int) -> float:
    delay_s = policy.retry_delay_s(error, attempt=attempt)
    if delay_s is None:
        raise error
    return delay_s
