"""An S3-compatible server on loopback (moto's), and the environment that points clients at it."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class Bucket:
    """A new bucket; `environment` is what AWS tools read to reach it."""

    name: str
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"s3://{self.name}/service"

    def keys(self) -> list[str]:
        """What is in it."""
        with urllib.request.urlopen(f"{self.environment['AWS_ENDPOINT_URL']}/{self.name}?list-type=2") as answer:
            text: str = answer.read().decode()
        return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]


@contextmanager
def s3_bucket() -> Iterator[Bucket]:
    """A server with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
        }
        bucket = Bucket(f"clips-{uuid.uuid4().hex}", environment)
        making = urllib.request.Request(f"{environment['AWS_ENDPOINT_URL']}/{bucket.name}", method="PUT")
        urllib.request.urlopen(making).close()
        yield bucket
    finally:
        server.stop()
