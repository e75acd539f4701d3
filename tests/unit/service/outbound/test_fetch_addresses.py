"""Which URLs a fetch reaches: the list of hosts, and the addresses that names resolve to."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media.spool import Spool
from service.outbound.fetch import Fetcher, FetchPolicy

ADDRESSES = {
    "store.example": ["93.184.216.34"],
    "inside.example": ["10.0.0.7"],
    "both.example": ["93.184.216.34", "::1"],
}


async def resolve(host: str, port: int) -> list[str]:
    if host not in ADDRESSES:
        raise OSError(host)
    return ADDRESSES[host]


async def refusal(url: str, *hosts: str, tmp_path: Path) -> str:
    """The detail with which a URL is refused before anything is connected."""
    fetcher = Fetcher(FetchPolicy(frozenset(hosts)), clock=lambda: 0.0, resolve=resolve)
    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    try:
        with pytest.raises(ServiceError) as refused:
            await fetcher(url, upload, deadline=Deadline())
    finally:
        upload.close()
    assert refused.value.code == ("url_unreachable" if "not known" in refused.value.detail else "url_refused")
    return refused.value.detail


@pytest.mark.parametrize(
    ("url", "hosts", "reason"),
    [
        ("https://store.example/a", (), "AVES_FETCH_HOSTS is empty"),
        ("https://other.example/a", ("store.example",), "list"),
        ("http://store.example/a", ("*",), "https at port 443"),
        ("https://store.example:8443/a", ("*",), "https at port 443"),
        ("https://inside.example/a", ("inside.example",), "private address"),
        ("https://both.example/a", ("*",), "private address"),
        ("https://localhost/a", ("*",), "local name"),
        ("https://printer.local/a", ("*",), "local name"),
        ("https://127.0.0.1/a", ("*",), "private address"),
        ("https://127.1/a", ("*",), "private address"),
        ("https://0x7f000001/a", ("*",), "private address"),
        ("https://[::1]/a", ("*",), "private address"),
        ("https://[::ffff:10.0.0.1]/a", ("*",), "private address"),
        ("https://169.254.169.254/latest/meta-data", ("*",), "private address"),
        ("https://nowhere.example/a", ("*",), "not known"),
        ("https://name@store.example/a", ("*",), "without a user name"),
        ("ftp://store.example/a", ("*",), "https://host"),
    ],
)
async def test_refusals(url: str, hosts: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    assert reason in await refusal(url, *hosts, tmp_path=tmp_path)
