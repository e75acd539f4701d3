"""The fast part of R1, R2, R3, R12 and R14: what must never happen; bars of time are for `make soak`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest
from load import strangers
from support.proof import FAST, Found, Run
from support.servers.service_process import ServiceProcess

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def running() -> Iterator[ServiceProcess]:
    with ServiceProcess(cache_bytes=0, log_level="error") as made:
        yield made


@pytest.mark.parametrize(
    "experiment",
    [strangers.r1, strangers.r2, strangers.r3, strangers.r12, strangers.r14],
    ids=["R1", "R2", "R3", "R12", "R14"],
)
async def test_strangers_hurt_nobody(
    running: ServiceProcess, experiment: Callable[[Run, ServiceProcess], Awaitable[Found]]
) -> None:
    assert (await experiment(Run(seed=1, sizes=FAST), running)).faults == []
