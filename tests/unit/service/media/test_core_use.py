"""Whether all cores are busy, and word of it when they no longer are."""

from __future__ import annotations

from service.media.core_use import CoreUse


def test_word_comes_when_the_cores_are_no_longer_all_busy() -> None:
    cores, calls = CoreUse(2), []
    cores.on_room(lambda: calls.append(cores.is_full))
    for is_full in (False, True, True):
        cores.begin()
        assert cores.is_full is is_full
    cores.end()
    assert cores.is_full
    assert calls == []
    cores.end()
    cores.end()
    assert not cores.is_full
    assert calls == [False]
