"""The rule for slow readers: only time in which something waited counts, over a sliding window."""

from __future__ import annotations

import pytest

from service.core.reader_rate import ReaderRate
from service.domain.errors import ServiceError


def read(rate: ReaderRate, *, seconds: float, bytes_per_s: float, step_s: float = 0.5) -> None:
    for _ in range(round(seconds / step_s)):
        rate.add(step_s, round(bytes_per_s * step_s))


@pytest.mark.parametrize("step_s", [0.01, 0.5, 3.0, 10.0])
def test_a_slow_reader_is_cut_after_a_window_and_a_steady_one_never(step_s):
    read(ReaderRate(4096, window_s=30), seconds=3000, bytes_per_s=4200, step_s=step_s)
    with pytest.raises(ServiceError, match="slow_reader") as caught:
        read(ReaderRate(4096, window_s=30), seconds=33, bytes_per_s=180, step_s=step_s)
    assert "122880" in caught.value.detail
    rate = ReaderRate(4096, window_s=30)
    read(rate, seconds=27, bytes_per_s=180, step_s=min(step_s, 3.0))


def test_a_good_start_buys_one_window_only():
    rate = ReaderRate(4096, window_s=30)
    read(rate, seconds=30, bytes_per_s=10**8)
    with pytest.raises(ServiceError, match="slow_reader"):
        read(rate, seconds=40, bytes_per_s=1000)


def test_without_a_least_rate_something_must_still_be_taken():
    rate = ReaderRate(0, window_s=30)
    for _ in range(100):
        rate.add(29.0, 1)
    with pytest.raises(ServiceError, match="slow_reader"):
        read(rate, seconds=64, bytes_per_s=0)


def test_a_reader_that_has_caught_up_starts_anew():
    rate = ReaderRate(4096, window_s=30)
    for _ in range(10):
        read(rate, seconds=20, bytes_per_s=0)
        rate.caught_up()
