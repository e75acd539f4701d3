"""The graph of a checkpoint's function: its bytes for any batch, and none where they would differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.network.avesformer import AVESFormer
from model.network.config import ModelConfig
from model.network.sample_function import SampleFunction, sample_graph
from model.network.variants import variant

SIDE_PX = 64


def small_pvt() -> ModelConfig:
    """`tiny` over a PVTv2 of one block in each stage."""
    options = {**variant("pvt-v2-b5").backbone.options, "depths": (1, 1, 1, 1), "hidden_sizes": (16, 32, 40, 64)}
    config = variant("tiny")
    return replace(config, backbone=replace(config.backbone, model_type="pvt_v2", options=options))


def small_paper() -> ModelConfig:
    """`tiny` with the head and the norm of `r50`."""
    config, paper = variant("tiny"), variant("r50")
    return replace(config, norm=paper.norm, head=replace(paper.head, width=config.width))


def inputs(num: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    frames = torch.randint(0, 256, (num, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8, generator=generator)
    return frames, 0.1 * torch.randn(num, 15_600, generator=generator)


@pytest.mark.parametrize(
    "config", [variant("tiny"), variant("lite"), small_pvt(), small_paper()], ids=["tiny", "lite", "pvt", "paper"]
)
@torch.inference_mode()
def test_the_graph_has_the_bytes_of_the_function_for_any_batch(config: ModelConfig) -> None:
    torch.manual_seed(0)
    function = SampleFunction(AVESFormer(config)).eval()
    expected = [function(*inputs(num)) for num in (1, 2, 3, 7)]
    graph = sample_graph(function, height=SIDE_PX, width=SIDE_PX)
    assert graph is not None
    for logits in expected:
        assert torch.equal(graph(*inputs(len(logits))), logits)


class HoldsBatch(nn.Module):
    """Takes the batch size as a number, which a trace records as a constant."""

    def forward(self, pictures: Tensor, examples: Tensor) -> Tensor:
        return pictures.reshape(len(pictures) * 3, -1).mean(dim=1)


class DependsOnBatch(nn.Module):
    """Takes another way for a single sample, which a trace of two does not have."""

    def forward(self, pictures: Tensor, examples: Tensor) -> Tensor:
        return pictures + 1 if pictures.shape[0] == 1 else pictures


@pytest.mark.parametrize("model", [HoldsBatch(), DependsOnBatch()], ids=["held", "branch"])
def test_a_function_that_a_trace_does_not_follow_has_no_graph(model: nn.Module) -> None:
    assert sample_graph(SampleFunction(model).eval(), height=SIDE_PX, width=SIDE_PX) is None
