"""Trust in the hosts that requests name."""

from __future__ import annotations

import ssl
from functools import cache


@cache
def public_authorities() -> ssl.SSLContext:
    """Return the context that trusts the public authorities, whatever the environment says.

    One for the process: reading the authorities' certificates takes 40 ms, in which the event loop stands still.
    """
    import httpx

    return httpx.create_ssl_context(trust_env=False)
