"""Places: a bounded line, fair between callers, whatever one of them does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.components.chunks import FakeClock
from support.virtual_time import run_virtual

from service.core.drain_rate import DrainRate
from service.core.places import PlacePolicy, Places
from service.domain.caller import Caller, address_party
from service.domain.errors import ServiceError
from service.telemetry.metrics import Metrics

A, B = Caller(key_id="a"), Caller(key_id="b")


def make(num_places: int, max_waiting: int) -> Places:
    rate = DrainRate(clock=FakeClock(), jitter=lambda: 0.5)
    return Places(PlacePolicy(num_places, max_waiting), metrics=Metrics(), rate=rate)


class Client:
    """Asks for a place as often as it may, and works for a second in it."""

    def __init__(self, places: Places, caller: Caller) -> None:
        self.places, self.caller = places, caller
        self.num_done = self.num_refused = 0

    async def run(self, *, until_s: float, work_s: float = 1.0) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until_s:
            try:
                async with self.places.place(self.caller):
                    await asyncio.sleep(work_s)
                self.num_done += 1
            except ServiceError:
                self.num_refused += 1
                await asyncio.sleep(0.5)


def compete(places: Places, clients: list[Client], *, seconds: float = 200.0) -> None:
    async def run() -> None:
        until_s = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(client.run(until_s=until_s) for client in clients))

    run_virtual(run())
    assert (places.num_working, places.num_waiting) == (0, 0)


def test_a_crowd_of_one_key_refuses_nobody_of_another():
    """80 clients of A before 8 places with a line of 8; 4 clients of B are never refused and get their half."""
    places = make(8, 8)
    crowd = [Client(places, A) for _ in range(80)]
    few = [Client(places, B) for _ in range(4)]
    compete(places, crowd + few)
    assert sum(client.num_refused for client in few) == 0
    assert sum(client.num_refused for client in crowd) > 0
    done = sum(client.num_done for client in few)
    assert done > 0.9 * 4 * 200 / 2, "each waits for one end at most"


def test_both_keys_beyond_their_share_get_half_each():
    places = make(8, 8)
    clients = [Client(places, caller) for caller in (A, B) for _ in range(40)]
    compete(places, clients)
    done = Counter({caller.key_id: 0 for caller in (A, B)})
    for client in clients:
        done[client.caller.key_id] += client.num_done
    assert 0.95 < done["a"] / done["b"] < 1.05
    assert sum(done.values()) > 0.98 * 8 * 200, "no place stands empty"


def test_weights_are_kept():
    places = make(9, 9)
    heavy = Caller(key_id="heavy", weight=2.0)
    clients = [Client(places, caller) for caller in (heavy, A) for _ in range(30)]
    compete(places, clients)
    done = [sum(client.num_done for client in clients if client.caller is caller) for caller in (heavy, A)]
    assert 1.8 < done[0] / done[1] < 2.2


async def test_a_full_line_refuses_at_once_and_says_so_beforehand():
    places = make(1, 1)
    async with places.place(A):
        waiting = asyncio.create_task(places.acquire(A))
        await asyncio.sleep(0)
        with pytest.raises(ServiceError, match="queue_full"):
            places.check(A)
        with pytest.raises(ServiceError, match="queue_full"):
            await places.acquire(A)
        places.check(B)
        newcomer = asyncio.create_task(places.acquire(B))
        with pytest.raises(ServiceError, match="queue_full") as caught:
            await waiting
        assert caught.value.retry_after_s is not None
        assert places.num_waiting == 1
    await newcomer
    assert places.num_working == 1
    places.release(B, has_ended=True)
    assert places.num_working == 0


async def test_a_lent_place_serves_others_and_is_never_refused_when_it_is_wanted_back():
    places = make(1, 0)
    resume = asyncio.Event()

    async def growing() -> str:
        async with places.place(A) as place:
            async with place.lent():
                await resume.wait()
            return "went on"

    first = asyncio.create_task(growing())
    await asyncio.sleep(0)
    async with places.place(B):
        resume.set()
        await asyncio.sleep(0)
        assert (places.num_working, places.num_waiting) == (1, 1)
    assert await first == "went on"
    assert places.num_working == 0


@given(st.integers(0, 10_000))
def test_no_place_is_lost_or_made_whatever_is_cancelled(seed):
    """Random callers, lending, cancellation at any moment: at the end all places are free."""
    rng = random.Random(seed)

    async def one(places: Places) -> None:
        caller = Caller(key_id=rng.choice("abc"), weight=rng.choice((0.5, 1.0, 3.0)))
        try:
            async with asyncio.timeout(rng.uniform(0.1, 5.0)), places.place(caller) as place:
                await asyncio.sleep(rng.uniform(0, 1))
                if rng.random() < 0.5:
                    async with place.lent():
                        await asyncio.sleep(rng.uniform(0, 2))
                assert places.num_working <= 3
        except (TimeoutError, ServiceError):
            return

    async def run() -> None:
        places = make(3, 4)
        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(one(places)))
            await asyncio.sleep(rng.choice((0, 0, 0.3)))
            if rng.random() < 0.2:
                rng.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (places.num_working, places.num_waiting, places._shares) == (0, 0, {})

    run_virtual(run())


@pytest.mark.parametrize(
    ("address", "party"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "0:0:0:0::/64"),
        ("fe80::1%eth0", "fe80:0:0:0::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_host_is_its_network(address, party):
    assert address_party(address) == party
    assert Caller(address=address).party == party
    assert Caller(key_id="k", address=address).party == "k"
