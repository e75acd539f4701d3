"""Layers that take a shorter way to the same function."""

import pytest
import torch
from torch.nn import functional as F

from model.network.layers import LiftedConv


@pytest.mark.parametrize("lift", [1, 2, 4])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 5, 5), (3, 4, 7), (2, 1, 2)])
def test_lifted_convolution_is_the_convolution_of_the_enlarged_map(
    lift: int, batch: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    layer = LiftedConv(6, 4, lift=lift).double()
    features = torch.randn(batch, 6, height, width, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(batch, 4, height * lift, width * lift, dtype=torch.float64)
    enlarged = F.interpolate(features, scale_factor=float(lift), mode="bilinear", align_corners=False)
    expected = F.conv2d(enlarged, layer.weight, layer.bias, padding=1)
    wanted = torch.autograd.grad((expected * direction).sum(), (features, layer.weight, layer.bias))
    got = layer(features)
    gradients = torch.autograd.grad((got * direction).sum(), (features, layer.weight, layer.bias))
    assert got.shape == direction.shape
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_lifted_convolution_is_as_exact_in_float32_as_the_plain_one() -> None:
    torch.manual_seed(0)
    layer = LiftedConv(128, 32, lift=4)
    features = torch.randn(1, 128, 14, 14)
    enlarged = F.interpolate(features.double(), scale_factor=4.0, mode="bilinear", align_corners=False)
    assert layer.bias is not None
    with torch.inference_mode():
        expected = F.conv2d(enlarged, layer.weight.double(), layer.bias.double(), padding=1)
        difference = (layer(features) - expected).abs().max()
    assert float(difference) < 1e-5 * float(expected.abs().max())
