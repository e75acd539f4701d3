"""A small object store on the loopback: keeps what is put, and answers with the statuses that a test gives."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ObjectStore:
    """What was put: path with query to body, and the headers of every request.

    Attributes:
        statuses: of the next answers; then 200.
        never_reads: stop after the head of a request.
    """

    statuses: list[str] = field(default_factory=list)
    never_reads: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)
    heads: list[dict[str, str]] = field(default_factory=list)
    port: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.writers.append(writer)
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = first.split()
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            self.heads.append({"method": method, **headers})
            if self.never_reads:
                await reader.read()
                return
            body = await reader.readexactly(int(headers["content-length"]))
            status = self.statuses.pop(0) if self.statuses else "200 OK"
            if status.startswith("200"):
                self.objects[path] = body
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: /elsewhere\r\n\r\n".encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        """Wait until every connection is closed, so that none is left to the garbage collector."""
        for writer in self.writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def running_store(*statuses: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[ObjectStore]:
    """Run a store on a free port of the loopback, with TLS if a server's context is given."""
    store = ObjectStore(list(statuses))
    server = await asyncio.start_server(store.handle, "127.0.0.1", 0, ssl=tls)
    store.port = server.sockets[0].getsockname()[1]
    async with server:
        yield store
    await store.close()


def tls_pair(folder: Path, *, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of a server named `host` and of a client that trusts its certificate alone."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    files = ["-keyout", str(key), "-out", str(certificate)]
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))
