"""A decoder pool for tests with real children."""

from collections.abc import AsyncIterator

import pytest
from support.components.pools import running_pool

from service.media.decoders.pool import DecoderPool


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DecoderPool]:
    monkeypatch.setenv("AVES_TEST_SECRET", "not for decoders")
    async with running_pool() as running:
        yield running
