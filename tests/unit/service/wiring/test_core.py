"""From how many decoders on all cores count as busy."""

from __future__ import annotations

import pytest

from service.wiring.core import decoders_to_fill


@pytest.mark.parametrize(
    ("num_cores", "num_decoders", "num_to_fill"),
    [(2, 8, 4), (2, 3, 3), (17, 32, 32), (64, 64, 64), (2, 1, 2)],
    ids=["two per core", "all of them", "many cores", "one per core", "too few to fill two cores"],
)
def test_decoders_that_keep_all_cores_busy(num_cores: int, num_decoders: int, num_to_fill: int) -> None:
    assert decoders_to_fill(num_cores, num_decoders) == num_to_fill
