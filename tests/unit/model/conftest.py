"""Small real networks for the tests of model/."""

from collections.abc import Iterator

import pytest
import torch

from model.network.avesformer import AVESFormer
from model.network.config import ModelConfig
from model.network.variants import variant


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """One thread, also for what a module makes once, so that sums have one order and tests do not fight for cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return variant("tiny")


@pytest.fixture(scope="session")
def tiny(tiny_config: ModelConfig) -> AVESFormer:
    """An untrained `tiny` in eval mode. Tests must not change it."""
    torch.manual_seed(0)
    return AVESFormer(tiny_config).eval()


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def log_mels() -> torch.Tensor:
    return torch.randn(4, 1, 96, 64, generator=torch.Generator().manual_seed(2)) * 2 - 3
