"""A real redis-server on a free loopback port, in a directory of its own.

REDIS_SERVER in the environment names another binary than the one on the path, such as a newer release.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from support.servers.ports import free_port

BINARY = shutil.which(os.environ.get("REDIS_SERVER", "redis-server"))
_START_S = 30.0


class RedisServer:
    """Starts, kills and restarts one server.

    With `is_durable` it appends every write to disk before it answers; with `is_cluster` it is a cluster of one node,
    which refuses commands and scripts whose keys do not share a slot.
    """

    def __init__(self, directory: Path, *, is_durable: bool = False, is_cluster: bool = False) -> None:
        self._directory = directory
        self._is_durable = is_durable
        self._is_cluster = is_cluster
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert BINARY is not None, "redis-server is needed: apt-get install redis-server"
        cluster = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())] if self._is_cluster else []
        durable = ["--appendonly", "yes", "--appendfsync", "always"] if self._is_durable else ["--appendonly", "no"]
        self._directory.mkdir(parents=True, exist_ok=True)
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        command = [BINARY, *place, "--save", "", "--repl-diskless-sync-delay", "0", *durable, *cluster]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _wait_for(self.port, b"PING", b"+PONG")
        if self._is_cluster:
            _wait_for(self.port, b"CLUSTER ADDSLOTSRANGE 0 16383", b"+OK")
            _wait_for(self.port, b"CLUSTER INFO", b"cluster_state:ok")

    def follow(self, primary_port: int) -> None:
        """Become a replica of another server; open connections stay, as in a fail-over."""
        _wait_for(self.port, b"REPLICAOF 127.0.0.1 %d" % primary_port, b"+OK")
        _wait_for(self.port, b"INFO replication", b"master_link_status:up")

    def follow_nobody(self) -> None:
        """Become a replica of a primary that cannot be reached, so that nothing new arrives."""
        _wait_for(self.port, b"REPLICAOF 127.0.0.1 %d" % free_port(), b"+OK")

    def promote(self) -> None:
        """Become a primary."""
        _wait_for(self.port, b"REPLICAOF NO ONE", b"+OK")

    def kill(self) -> None:
        """As the kernel would: nothing is flushed or said goodbye to."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


def _wait_for(port: int, command: bytes, answer: bytes) -> None:
    """Until a command is answered as it should be: an append-only server is LOADING at first."""
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as link:
                link.sendall(command + b"\r\n")
                if answer in link.recv(4096):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise TimeoutError("redis-server did not start")
