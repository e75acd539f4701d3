"""Garbage collection of a long-running process: paused while it starts, then without the objects of the start."""

from __future__ import annotations

import gc
import logging

logger = logging.getLogger("avesformer.garbage")


def pause_collection() -> None:
    """Stop automatic collection until `freeze_started_objects`: a start makes objects that live for good."""
    gc.disable()


def freeze_started_objects() -> None:
    """Collect once, exclude everything that is alive from later collections, and switch collection on again.

    A full collection visits every tracked object while it holds the interpreter lock. Modules, the model and the
    routes are hundreds of thousands of objects, which stop the event loop for 0.2 s each time. Collections of young
    objects go on as before, and full ones visit only what was made after the start.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    logger.info(
        "objects of the start are excluded from garbage collection", extra={"num_objects": gc.get_freeze_count()}
    )
