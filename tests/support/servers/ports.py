"""Ports for servers that are started by number."""

from __future__ import annotations

import random
import socket

# Below what Linux gives to outgoing connections by itself (32 768 to 60 999): none takes one between look and use.
_FIRST, _END = 10_000, 32_000
_random = random.Random()  # of its own: a test that seeds the shared one must not repeat ports
_given: set[int] = set()


def free_port() -> int:
    """A loopback port that nothing listens on, another one each time."""
    while True:
        port = _random.randrange(_FIRST, _END)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
