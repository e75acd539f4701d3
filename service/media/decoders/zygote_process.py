"""Start of a zygote: a process with a clean environment, connected by one socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import Literal

ZygoteModule = Literal["decoder_zygote", "overlay_zygote"]
# Without collection, which makes the imports a quarter slower; the zygote enables it once it is warm.
_CODE = "import gc; gc.disable(); from service.media.sandbox.{module} import main; main()"
_STOP_S = 5.0
# Environment that keeps libraries from starting threads: the zygote must have one thread when it forks.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Environment of the zygote, without any secret of the service.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


def start_zygote(module: ZygoteModule) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a zygote. Return the process and the non-blocking end of its control socket.

    Args:
        module: of `service.media.sandbox`, whose `main` it runs.

    Raises:
        OSError: out of processes, memory or descriptors.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _ONE_THREAD
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE.format(module=module), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                pass_fds=(theirs.fileno(),),
            )
        except OSError:
            ours.close()
            raise
    ours.setblocking(False)
    return process, ours


def stop_zygote(process: subprocess.Popen[bytes]) -> None:
    """Kill a zygote, even a stopped one (SIGSTOP), and reap it. Its children end with it."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
