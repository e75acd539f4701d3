"""Results that are put to a URL, over real connections on the loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.servers.object_store import ObjectStore, running_store, tls_pair

from service.domain.errors import ServiceError
from service.outbound.put import PutError, PutPolicy, Putter

FILE = b"masks" * 100_000
HOST = "store.example"


async def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def blocks() -> AsyncIterator[bytes]:
    for at in range(0, len(FILE), 65_536):
        yield FILE[at : at + 65_536]


async def put(store: ObjectStore, *, scheme: str = "http", tls: ssl.SSLContext | None = None, **policy: float) -> None:
    """Put the file to a store that the setting names as a whole origin; names resolve to the loopback."""
    origin = f"{scheme}://{HOST}:{store.port}"
    putter = Putter(PutPolicy(frozenset({origin}), tls=tls, **policy), resolve=here)
    await putter.put(f"{origin}/key?X-Signature=a%2Fb", blocks(), num_bytes=len(FILE), media_type="text/csv")


async def test_the_file_arrives_whole_with_its_length_and_type() -> None:
    async with running_store() as store:
        await put(store)
    assert store.objects == {"/key?X-Signature=a%2Fb": FILE}
    head = store.heads[0]
    assert (head["method"], head["content-type"], head["content-length"]) == ("PUT", "text/csv", str(len(FILE)))
    assert head["host"] == f"{HOST}:{store.port}"
    assert "transfer-encoding" not in head


async def test_tls_is_checked_against_the_name_of_the_url(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    server, client = tls_pair(tmp_path, host=HOST)
    other_server, other_client = tls_pair(tmp_path / "other", host="other.example")
    async with running_store(tls=server) as store:
        await put(store, scheme="https", tls=client)
        assert store.objects
        with pytest.raises(PutError, match="cannot be reached") as unknown:
            await put(store, scheme="https")
        assert unknown.value.may_retry
    async with running_store(tls=other_server) as store:
        with pytest.raises(PutError, match="cannot be reached"):
            await put(store, scheme="https", tls=other_client)
    assert not store.heads


@pytest.mark.parametrize(
    ("status", "may_retry"),
    [("403 Forbidden", False), ("302 Found", False), ("429 Slow", True), ("503 Slow Down", True), ("500 No", True)],
)
async def test_a_status_decides_whether_a_retry_can_help(status: str, may_retry: bool) -> None:
    async with running_store(status) as store:
        with pytest.raises(PutError, match=f"its host answered {status[:3]}") as failed:
            await put(store)
    assert failed.value.may_retry == may_retry
    assert len(store.heads) == 1, "redirects are not followed"


async def test_a_host_that_takes_nothing_ends_with_the_time_limit() -> None:
    async with running_store() as store:
        store.never_reads = True
        async with asyncio.timeout(60):
            with pytest.raises(PutError, match="within 0 s") as failed:
                await put(store, timeout_s=0.3)
    assert failed.value.may_retry


async def test_a_closed_port_may_be_open_later() -> None:
    async with running_store() as store:
        pass
    with pytest.raises(PutError, match="cannot be reached") as failed:
        await put(store)
    assert failed.value.may_retry


@pytest.mark.parametrize(
    ("url", "hosts", "reason"),
    [
        (f"https://{HOST}/key", (), "AVES_RESULT_HOSTS is empty"),
        (f"http://{HOST}/key", ("*",), "https at port 443"),
        (f"https://{HOST}/key", ("other.example",), "AVES_RESULT_HOSTS"),
        ("https://127.0.0.1/key", ("*",), "private address"),
        ("https://169.254.169.254/latest", ("*",), "private address"),
        ("https://localhost/key", ("*",), "local name"),
        ("https://user:secret@store.example/", ("*",), "without a user name"),
        ("s3://bucket/key", ("*",), "https://host"),
    ],
)
async def test_what_is_refused_at_once(url: str, hosts: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ServiceError, match=reason) as refused:
        Putter(PutPolicy(frozenset(hosts)), resolve=here).check(url)
    assert refused.value.code == "url_refused"


async def test_a_name_with_a_private_address_is_refused_when_it_is_resolved() -> None:
    putter = Putter(PutPolicy(frozenset({HOST})), resolve=here)
    putter.check(f"https://{HOST}/key")
    with pytest.raises(PutError, match="private address") as refused:
        await putter.put(f"https://{HOST}/key", blocks(), num_bytes=len(FILE), media_type="text/csv")
    assert not refused.value.may_retry
