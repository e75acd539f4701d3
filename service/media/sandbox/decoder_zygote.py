"""The zygote of decoders, started with the service. Its spares rehearse, because most children have little work."""

from __future__ import annotations

from typing import NoReturn

from service.media.sandbox.child import run_child
from service.media.sandbox.warmup import rehearse, warm_up
from service.media.sandbox.zygote import Work, run_zygote


def main() -> NoReturn:
    """Run the process; its argument is the descriptor of the socket to the service."""
    run_zygote(Work(warm_up=warm_up, run=run_child, num_spares=2, place=0, rehearse=rehearse))
