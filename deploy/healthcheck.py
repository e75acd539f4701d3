"""Container health check: ask /readyz of the process in this container; exit code 0 if it answers 200.

Standard library only, so it starts in milliseconds and needs nothing of the service. It tries the worker's ops port,
then the front's, at the address of AVES_HOST: one check fits both images, whichever command they run.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

TIMEOUT_S = 2.0  # of one question; two of them stay below the HEALTHCHECK timeout of the Dockerfile
# Where a socket that is bound to every address is reached. `::` also accepts IPv4.
LOOPBACK = {"": ("127.0.0.1",), "0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}


def is_ready(host: str, port: int, *, has_tls: bool) -> bool | None:
    """Ask one port; None if nothing listens there."""
    connection: http.client.HTTPConnection
    if has_tls:
        # The certificate names the public host, not the address that is asked here.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return None
    except OSError as error:
        # An address family or address that this container does not have, so nothing can listen there.
        return None if type(error) is OSError else False
    except http.client.HTTPException:
        return False
    finally:
        connection.close()


def port_of(name: str, default: int) -> int:
    """Return the port that a variable names; end with an explanation if it is no number."""
    given = os.environ.get(name) or str(default)
    if not given.isdigit():
        sys.exit(f"{name}={given} is no port; in Kubernetes set enableServiceLinks: false in the pod")
    return int(given)


def main() -> int:
    """Return 0 if ready, 1 if not ready or nothing listens."""
    given = (os.environ.get("AVES_HOST") or "").strip("[]")
    has_tls = bool(os.environ.get("AVES_TLS_CERT"))
    ports = ((port_of("AVES_WORKER_PORT", 8001), False), (port_of("AVES_PORT", 8000), has_tls))
    for port, has_tls_here in ports:
        for host in LOOPBACK.get(given, (given,)):
            answer = is_ready(host, port, has_tls=has_tls_here)
            if answer is not None:
                return 0 if answer else 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
