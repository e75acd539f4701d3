"""The fast part of R5, R9 and of the keys: what must never happen. Bars of time and overload (R6): `make soak`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from load import abuse, chaos, deaths, growth, long_job, soak
from support.proof import FAST, Experiment, Found, Run

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "experiment",
    [deaths.r5, growth.r9, abuse.keys, long_job.run],
    ids=["R5", "R9", "keys", "job"],
)
async def test_crowds_and_deaths_cost_nothing_that_was_promised(experiment: Callable[[Run], Awaitable[Found]]) -> None:
    assert (await experiment(Run(seed=1, sizes=FAST))).faults == []


def test_every_experiment_has_a_number_and_a_bar() -> None:
    rows: tuple[Experiment, ...] = (*soak.EXPERIMENTS, *chaos.experiments(chaos.SharedFleet()))
    numbers = {row.number.split()[0] for row in rows}
    assert {f"R{number}" for number in range(1, 18)} <= numbers
    assert len({row.number for row in rows}) == len(rows)
    assert all(row.bar for row in rows)
