"""The fast part of `tests/load/abuse.py`: mutated clips against the service as a process."""

from __future__ import annotations

import argparse

import pytest
from load.abuse import r1


@pytest.mark.e2e
async def test_mutated_clips_get_documented_answers_and_change_nothing():
    figures, faults = await r1(argparse.Namespace(clips=60, seed=1))
    assert faults == []
    assert figures["clips"] == 60
