"""`python -m support.serve_shipped`: the service as `avesformer serve` starts it, settings from the environment."""

from __future__ import annotations

import sys

from service.cli.serve import run_front
from service.settings import Settings

if __name__ == "__main__":
    sys.exit(run_front(Settings()))
