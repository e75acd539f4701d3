"""Byte budget, upload rate, API keys, request_log, the error of a task group."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os

import pytest
from support.components.chunks import FakeClock

from service.aio.byte_budget import ByteBudget
from service.aio.tasks import first_error
from service.core.api_keys import ApiKeys
from service.core.request_log import RequestLog
from service.core.upload_rate import UploadRate
from service.domain.caller import ANONYMOUS, Caller, KeyLimits
from service.domain.errors import ServiceError
from service.telemetry.logs import JsonFormatter
from service.telemetry.metrics import Metrics


async def test_budget_lets_in_by_order_and_a_lone_holder_exceed():
    budget = ByteBudget(100)
    await budget.acquire(300)
    order = []

    async def hold(name: str, num_bytes: int) -> None:
        await budget.acquire(num_bytes)
        order.append(name)

    tasks = [asyncio.create_task(hold(name, size)) for name, size in (("big", 90), ("small", 1), ("more", 20))]
    await asyncio.sleep(0)
    assert order == []
    budget.release(300)
    await asyncio.gather(*tasks[:2])
    assert order == ["big", "small"]
    budget.release(90)
    await tasks[2]
    assert budget.held_bytes == 21


async def test_a_cancelled_waiter_neither_holds_nor_blocks():
    budget = ByteBudget(100)
    await budget.acquire(100)
    first = asyncio.create_task(budget.acquire(50))
    second = asyncio.create_task(budget.acquire(10))
    granted_late = asyncio.create_task(budget.acquire(20))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    budget.release(100)
    granted_late.cancel()
    await asyncio.gather(second, granted_late, return_exceptions=True)
    assert budget.held_bytes == 10


def test_a_steady_upload_passes_and_a_stalled_one_does_not():
    clock = FakeClock()
    rate = UploadRate(1000, clock=clock)
    for _ in range(100):
        clock.advance(1.0)
        rate.add(1000)
    clock.advance(0.9)
    rate.check()
    assert rate.timeout_s() == pytest.approx(1.0)
    clock.advance(1.2)
    with pytest.raises(ServiceError, match="slow_upload"):
        rate.check()


def test_nothing_is_asked_in_the_first_ten_seconds():
    clock = FakeClock()
    rate = UploadRate(16_384, clock=clock)
    clock.advance(9.9)
    rate.add(1)
    clock.advance(0.1)
    with pytest.raises(ServiceError) as caught:
        rate.check()
    assert "1 bytes" in caught.value.detail


def key_line(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_keys_are_checked_and_read_again_when_the_file_changes(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# comment\n\n{key_line('one').upper()} first\nnot a hash\n{key_line('two')}\n")
    keys = ApiKeys(path)
    assert keys.check("Bearer one") == Caller(key_id=key_line("one")[:16], name="first")
    assert keys.check("bearer two").name == ""
    for wrong in (None, "", "Bearer", "Bearer ", "Basic one", "Bearer three", "Bearer " + key_line("one")):
        with pytest.raises(ServiceError, match="unauthenticated"):
            keys.check(wrong)
    path.write_text(key_line("three"))
    os.utime(path, ns=(1, 1))
    assert keys.check("Bearer three")
    with pytest.raises(ServiceError):
        keys.check("Bearer one")
    path.unlink()
    assert keys.check("Bearer three"), "a file that cannot be read changes nothing"


def test_limits_of_keys_and_mistakes_in_them(tmp_path, caplog):
    path = tmp_path / "keys"
    limits = "weight=2.5 requests=16 samples_per_minute=6000 bytes_per_minute=2GiB"
    wrong = ("reqests=16", "requests=0", "requests=1.5", "weight=-1", "weight=x", "weight=", "weight=1 weight=2")
    lines = [f"{key_line('one')} batch team {limits}  # nights only"]
    lines += [f"{key_line(f'wrong {number}')} {word}" for number, word in enumerate(wrong)]
    path.write_text("\n".join(lines))
    keys = ApiKeys(path)
    caller = keys.check("Bearer one")
    assert (caller.name, caller.weight) == ("batch team", 2.5)
    assert keys.caller_of(caller.key_id) == caller
    assert keys.caller_of("gone") == Caller(key_id="gone")
    assert caller.limits == KeyLimits(requests=16, samples_per_minute=6000, bytes_per_minute=2 * 1024**3)
    for number in range(len(wrong)):
        with pytest.raises(ServiceError, match="unauthenticated"):
            keys.check(f"Bearer wrong {number}")
    assert [record.line for record in caplog.records if record.levelname == "ERROR"] == list(range(2, 2 + len(wrong)))


def test_without_a_file_no_keys_are_asked_and_with_an_unreadable_one_nobody_gets_in(tmp_path):
    assert ApiKeys(None).check(None) == ANONYMOUS
    with pytest.raises(ServiceError):
        ApiKeys(tmp_path / "nothing").check("Bearer x")


def test_journal_counts_logs_once_and_hides_what_is_not_ours(caplog):
    clock, metrics = FakeClock(), Metrics()
    request_log = RequestLog(metrics=metrics, clock=clock)
    caplog.set_level(logging.INFO, logger="avesformer.request")
    with request_log.record(request_id="r1", transport="rest") as record:
        record.num_samples = 3
        clock.advance(1.5)
    with pytest.raises(ServiceError) as caught, request_log.record(request_id="r2", transport="grpc"):
        raise RuntimeError("a library said /secret/path")
    assert caught.value.code == "internal"
    assert "secret" not in caught.value.detail
    with pytest.raises(asyncio.CancelledError), request_log.record(request_id="r3", transport="grpc"):
        raise asyncio.CancelledError
    value = metrics.registry.get_sample_value
    assert value("avesformer_requests_total", {"transport": "rest", "code": "ok"}) == 1
    assert value("avesformer_requests_total", {"transport": "grpc", "code": "internal"}) == 1
    assert value("avesformer_requests_total", {"transport": "grpc", "code": "client_gone"}) == 1
    infos = [entry for entry in caplog.records if entry.levelno == logging.INFO]
    assert [json.loads(JsonFormatter().format(entry))["code"] for entry in infos] == ["ok", "internal", "client_gone"]
    assert infos[0].duration_s == 1.5


def test_of_a_group_of_errors_the_documented_one_comes_out_however_deep():
    documented = ServiceError("broken", "The file is damaged.")
    nested = BaseExceptionGroup("inner", [TimeoutError(), documented])
    assert first_error(BaseExceptionGroup("outer", [ValueError(), nested]), ServiceError) is documented
    other = ValueError()
    assert first_error(BaseExceptionGroup("outer", [other, TimeoutError()]), ServiceError) is other
