"""Redis addresses: what is accepted is read right, what is refused says how to write it and keeps the password."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.domain.redis_address import RedisAddress, parse_redis_address

ACCEPTED = {
    "redis://cache": RedisAddress(host="cache"),
    "redis://cache:6380/2": RedisAddress(host="cache", port=6380, database=2),
    "REDIS://cache/": RedisAddress(host="cache"),
    "valkey://cache:6380": RedisAddress(host="cache", port=6380),
    "valkeys://cache": RedisAddress(host="cache", is_tls=True),
    "rediss://cache?ssl_cert_reqs=none": RedisAddress(host="cache", is_tls=True, tls_options={"ssl_cert_reqs": "none"}),
    "redis://[::1]:6380/1": RedisAddress(host="::1", port=6380, database=1),
    "redis://:p#a@cache/0": RedisAddress(host="cache", password="p#a"),
    "redis://:p@ss@cache/0": RedisAddress(host="cache", password="p@ss"),
    "redis://:p/ss?x@cache:1/3": RedisAddress(host="cache", port=1, database=3, password="p/ss?x"),
    "redis://:p%23%40%2Fa@cache": RedisAddress(host="cache", password="p#@/a"),
    "redis://me:a:b@cache": RedisAddress(host="cache", username="me", password="a:b"),
    "redis://me@cache": RedisAddress(host="cache", username="me"),
    "redis://cache?db=4&client_name=front": RedisAddress(host="cache", database=4, client_name="front"),
    "unix:///run/redis.sock?db=1": RedisAddress(path="/run/redis.sock", database=1),
    "unix://:secret@/run/redis.sock": RedisAddress(path="/run/redis.sock", password="secret"),
}
REFUSED = {
    "": "must start with one of redis://",
    "cache:6379": "must start with one of redis://",
    "http://cache": "must start with one of redis://",
    "redis://": "no host",
    "redis://:secret@": "no host",
    "redis://:6379": "no host",
    "redis://cache:port": "percent-encode",
    "redis://[::1:6379": "percent-encode",
    "redis://cache:70000": "between 1 and 65535",
    "redis://cache:0": "between 1 and 65535",
    "redis://cache/jobs": "database must be a number",
    "redis://cache?db=x": "database must be a number",
    "redis://a:1,b:2": "one server",
    "redis://cache?socket_timeout=1": "'socket_timeout' is not known",
    "redis://cache?ssl_cert_reqs=none": "needs rediss://",
    "rediss://cache?ssl_cert_reqs=maybe": "must be one of required",
    "unix://run/redis.sock": "absolute path",
    "redis+sentinel://:secret@a:26379/primary": "follows the primary",
    "sentinel://a": "follows the primary",
    "redis+cluster://a": "without cluster mode",
    "redis://:secret@ca#che": "percent-encode",
    "redis://:sec@ret@:6379": "percent-encode",
}


@pytest.mark.parametrize("url", ACCEPTED)
def test_is_read(url: str) -> None:
    assert parse_redis_address(url) == ACCEPTED[url]


@pytest.mark.parametrize("url", REFUSED)
def test_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_redis_address(url)
    assert REFUSED[url] in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(parse_redis_address("redis://:secret@cache"))


@pytest.mark.parametrize("name", ["AVES_REDIS_URL", "AVES_REDIS_DATA_URL"])
@pytest.mark.parametrize("url", [url for url in REFUSED if url])
def test_check_config_names_the_field(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, url)
    done = CliRunner().invoke(app, ["check-config"])
    assert done.exit_code == 2
    assert name in done.output
    assert REFUSED[url] in done.output
    assert "Traceback" not in done.output
    assert "secret" not in done.output


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_check_config_names_a_missing_file(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVES_REDIS_URL", f"rediss://cache?{option}={tmp_path}/none.pem")
    done = CliRunner().invoke(app, ["check-config"])
    assert done.exit_code == 2
    assert f"AVES_REDIS_URL: {option} names no file" in done.output


@pytest.mark.parametrize("url", [url for url in ACCEPTED if "unix" not in url])
def test_check_config_accepts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVES_REDIS_URL", url)
    done = CliRunner().invoke(app, ["check-config"])
    assert done.exit_code == 0
    assert not any(password in done.output for password in ("p#a", "p@ss", "p/ss", "a:b"))
