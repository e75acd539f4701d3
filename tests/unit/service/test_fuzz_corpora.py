"""Inputs that reached new code under `make fuzz`, replayed: no target may raise for any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from load.fuzz import CORPORA, NAMES
from support.fuzz_targets import TARGETS

MAX_CORPUS_BYTES = 200_000


def inputs_of(name: str) -> list[Path]:
    return sorted(path for path in (CORPORA / name).rglob("*") if path.is_file())


def test_every_target_has_a_corpus_and_is_small() -> None:
    assert set(NAMES) == set(TARGETS) == {path.name for path in CORPORA.iterdir()}
    assert sum(path.stat().st_size for path in CORPORA.rglob("*") if path.is_file()) < MAX_CORPUS_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_raises_nothing(name: str) -> None:
    assert len(inputs_of(name)) >= 5
    for path in inputs_of(name):
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(str(path.relative_to(CORPORA))) from error
