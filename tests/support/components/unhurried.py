"""Turns for components whose tests are about something else."""

from __future__ import annotations

import time

from service.aio.turns import Turns


def unhurried_turns() -> Turns:
    """Turns that follow one another without a pause."""
    return Turns(clock=time.monotonic)
