"""Container health: asks /readyz of the process in this container; exit code 0 when it answers 200.

Standard library only, so that it starts in milliseconds and needs nothing of the service. The worker's ops port is
tried first, then the front's: one check fits both images, whichever command runs in them.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

TIMEOUT_S = 3.0  # below the HEALTHCHECK timeout of the Dockerfile


def is_ready(port: int, *, has_tls: bool) -> bool | None:
    """Asks one port; None where nothing listens there."""
    connection: http.client.HTTPConnection
    if has_tls:
        # The certificate names the public host, not the loopback address that is asked here.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return None
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """0 ready, 1 not ready or nothing there."""
    ports = (
        (int(os.environ.get("AVES_WORKER_PORT") or 8001), False),
        (int(os.environ.get("AVES_PORT") or 8000), bool(os.environ.get("AVES_TLS_CERT"))),
    )
    answers = [is_ready(port, has_tls=has_tls) for port, has_tls in ports]
    return 0 if next((answer for answer in answers if answer is not None), False) else 1


if __name__ == "__main__":
    sys.exit(main())
