"""The command that runs a module as a server."""

from __future__ import annotations

import sys


def module_command(module: str) -> list[str]:
    """Return the command of `python -m module`, without garbage collection until the server enables it.

    `avesformer serve` and `avesformer worker` pause it before their imports, too.
    """
    code = f"import gc, runpy; gc.disable(); runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", code]
