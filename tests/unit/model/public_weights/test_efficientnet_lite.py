"""EfficientNet-Lite0's published weights: folded, they compute what the published layers do."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from support.model.efficientnet_state import BLOCKS, published_efficientnet_lite
from torch import Tensor
from torch.nn import functional as F

from model.network.avesformer import AVESFormer
from model.network.config import BACKGROUND, EFFICIENTNET_DEEPLAB, BackboneConfig
from model.network.mobilenet import EfficientNetLiteDeepLab
from model.network.variants import variant
from model.public_weights.load import WeightsError, import_backbone


def step(
    state: Mapping[str, Tensor],
    name: str,
    norm: str,
    features: Tensor,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """A published convolution with TensorFlow's padding of even sizes, and its norm."""
    weight = state[f"{name}.weight"]
    total = dilation * (weight.shape[-1] - 1) + 1 - stride
    padded = F.pad(features, 2 * (total // 2, total - total // 2))
    done = F.conv2d(padded, weight, stride=stride, dilation=dilation, groups=groups)
    mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
    return F.batch_norm(done, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)


def network() -> AVESFormer:
    torch.manual_seed(1)
    config = variant("lite", labels=(BACKGROUND, "dog"))
    return AVESFormer(replace(config, backbone=BackboneConfig(EFFICIENTNET_DEEPLAB))).eval()


@torch.no_grad()
def test_folded_layers_compute_what_the_published_ones_do() -> None:
    state = published_efficientnet_lite()
    model = network()
    report = import_backbone(model, state)
    assert report.num_tensors == 2 * (3 + 3 * 15)
    assert report.left_over == ("_conv_head.weight",)
    frames = torch.rand(1, 3, 64, 96) * 2 - 1
    features = F.relu6(step(state, "_conv_stem", "_bn0", frames, stride=2))
    expected = []
    for number, (_, stride, channels_in, channels_out, expansion) in enumerate(BLOCKS):
        home, given = f"_blocks.{number}", features
        if expansion > 1:
            features = F.relu6(step(state, f"{home}._expand_conv", f"{home}._bn0", features))
        dilation = 2 if number > 11 else 1
        features = step(
            state,
            f"{home}._depthwise_conv",
            f"{home}._bn1",
            features,
            stride=stride,
            dilation=dilation,
            groups=features.shape[1],
        )
        features = step(state, f"{home}._project_conv", f"{home}._bn2", F.relu6(features))
        if stride == 1 and channels_in == channels_out:
            features = features + given
        expected.append(features)
    backbone = model.backbone.network
    assert isinstance(backbone, EfficientNetLiteDeepLab)
    got = backbone.mobilenet_v2(frames)
    assert [tuple(entry.shape) for entry in got] == [(1, 24, 16, 24), (1, 40, 8, 12), (1, 320, 4, 6)]
    for entry, number in zip(got, (2, 4, 15), strict=True):
        torch.testing.assert_close(entry, expected[number], rtol=1e-3, atol=1e-3)


def test_a_missing_tensor_is_named_and_nothing_changes() -> None:
    state = published_efficientnet_lite()
    del state["_blocks.7._bn1.running_var"]
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"_blocks\.7\._bn1\.running_var.*EfficientNet-Lite0"):
        import_backbone(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_network_answers_and_learns() -> None:
    model = network().train()
    logits = model(torch.rand(2, 3, 64, 64), torch.randn(2, 1, 96, 64))
    assert logits.shape == (2, 2, 16, 16)
    logits.square().mean().backward()
    first = model.get_parameter("backbone.network.mobilenet_v2.layer.2.conv_3x3.convolution.weight")
    assert first.shape[-1] == 5
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
