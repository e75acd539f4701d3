"""A running service excludes the objects of its start from garbage collection, and goes on collecting new ones."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator

import pytest
from support.servers.service_process import ServiceProcess

from service.cli.garbage import freeze_started_objects, pause_collection

# A bare interpreter has about 6 000 tracked objects, a front without torch over 100 000.
LEAST_FROZEN_OBJECTS = 50_000


class Ring:
    """An object that only a collection can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.e2e
def test_a_front_freezes_its_objects_before_it_says_that_it_is_ready() -> None:
    with ServiceProcess() as service:
        line = service.wait_for_line("excluded from garbage collection")
        assert json.loads(line)["num_objects"] > LEAST_FROZEN_OBJECTS
        is_ready = next(number for number, text in enumerate(service.lines) if "is ready" in text)
        assert service.lines.index(line) < is_ready


@pytest.mark.usefixtures("thawed")
def test_new_objects_are_collected_and_old_ones_are_not() -> None:
    pause_collection()
    assert not gc.isenabled()
    old = Ring()
    freeze_started_objects()
    assert gc.isenabled()
    is_old, is_new = weakref.ref(old), weakref.ref(Ring())
    del old
    gc.collect()
    assert is_old() is not None
    assert is_new() is None
