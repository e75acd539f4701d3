"""Delay, loss and narrowness on every link: no wrong answer, no hang past the deadline, and service afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fleets.linked_fleet import LINKS, LOST, RIGHT, LinkedFleet, linked_fleet

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(600)]
DEADLINE_S = 2.0
# Hang guard past a deadline: answers come within tenths of a second of it. Redis' own timeouts alone would be 14 s.
LATE_S = 10.0
PATIENT_S = 60.0
REDIS_LINKS = LINKS[2:]
# A request is slower for them and nothing else.
MILD = {"latency": {"latency_s": 0.1}, "bandwidth": {"bytes_per_s": 400_000.0}}
SEVERE = {
    "latency": {"latency_s": 1.5},
    "bandwidth": {"bytes_per_s": 3_000.0},
    "reset": {"reset_after_bytes": 5_000},
    "reset at once": {"reset_after_bytes": 0},
    "stall": {"is_stalled": True},
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedFleet]:
    with linked_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def break_link(fleet: LinkedFleet, link: str, fault: str) -> list[str]:
    """Ask under a severe fault, then wait until all is well; how the requests ended."""
    with fleet.fault(link, **SEVERE[fault]) as proxy:
        outcomes = fleet.ask_all(timeout_s=DEADLINE_S, guard_s=DEADLINE_S + LATE_S)
        # Few bytes go over the link of the jobs' Redis: one round may not be enough for a reset.
        while fault.startswith("reset") and not proxy.num_resets:
            outcomes += fleet.ask_all(timeout_s=DEADLINE_S, guard_s=DEADLINE_S + LATE_S)
    assert link.startswith("client") or LOST not in outcomes
    fleet.wait_until_well()
    return outcomes


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_resets_costs_no_wrong_answer(fleet: LinkedFleet, link: str) -> None:
    break_link(fleet, link, "reset")


def test_a_stalled_link_holds_nobody_past_its_deadline(fleet: LinkedFleet) -> None:
    outcomes = break_link(fleet, "front-data", "stall")
    assert set(outcomes) <= {"deadline_exceeded", "backend_down", "cannot_meet_deadline"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", SEVERE)
@pytest.mark.parametrize("link", LINKS)
def test_no_fault_of_any_link_gives_a_wrong_answer_or_holds_anybody(fleet: LinkedFleet, link: str, fault: str) -> None:
    break_link(fleet, link, fault)


@pytest.mark.slow
@pytest.mark.parametrize("fault", MILD)
@pytest.mark.parametrize("link", LINKS)
def test_a_slow_link_is_only_slow(fleet: LinkedFleet, link: str, fault: str) -> None:
    with fleet.fault(link, **MILD[fault]):
        assert set(fleet.ask_all(timeout_s=PATIENT_S, guard_s=PATIENT_S + LATE_S)) == {RIGHT}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reset", "stall", "latency"])
@pytest.mark.parametrize("link", REDIS_LINKS)
def test_an_accepted_job_is_done_whatever_its_links_do(fleet: LinkedFleet, link: str, fault: str) -> None:
    with fleet.fault(link, **SEVERE[fault]):
        locations = [fleet.submit(number) for number in range(3)]
    for number, location in enumerate(locations):
        if location.startswith("/"):
            fleet.check_job(number, location)
    fleet.wait_until_well()


@pytest.mark.slow
@pytest.mark.parametrize("link", ["client-http", "front-jobs", "front-data"])
def test_a_key_asked_again_after_a_fault_is_answered(fleet: LinkedFleet, link: str) -> None:
    key = f"key over {link}"
    with fleet.fault(link, reset_after_bytes=5_000):
        fleet.ask_rest(1, timeout_s=DEADLINE_S, key=key)
    outcome = ""
    while outcome != RIGHT:
        outcome = fleet.ask_rest(1, timeout_s=PATIENT_S, key=key)
        assert outcome in (RIGHT, "idempotency_in_progress", "backend_down")
