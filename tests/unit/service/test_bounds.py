"""The bounds that `serve` logs at its start."""

from __future__ import annotations

from service.settings import Settings


def test_every_bound_is_logged() -> None:
    bounds = Settings(max_decode_memory=128 << 20, decode_processes=3).bounds()
    assert bounds["max_decode_memory"] == 128 << 20
    assert bounds["decoders"] == 3
    assert {"max_connections", "max_upload_bytes", "spool_bytes", "max_clip_s", "request_timeout_s"} <= bounds.keys()
    assert all(isinstance(value, int | float) for value in bounds.values())
