"""`python -m support.servers.serve_shipped`: the service as `avesformer serve` starts it, configured by AVES_*."""

from __future__ import annotations

import sys

from service.cli.serve import run_front
from service.settings import Settings

if __name__ == "__main__":
    sys.exit(run_front(Settings()))
