"""The variant `lite`: its convolutions are TensorFlow's, YAMNet gets its own log-mel, the experts multiply."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.network.avesformer import AVESFormer, parameter_report
from model.network.config import BACKGROUND, AudioConfig, ModelConfig
from model.network.kinds import KindExperts
from model.network.layers import Attention, SameConv
from model.network.preprocess import log_mel
from model.network.variants import variant
from model.network.yamnet import Yamnet

LABELS = (BACKGROUND, "dog", "clock", "train")


@pytest.fixture(scope="module")
def lite() -> AVESFormer:
    torch.manual_seed(0)
    return AVESFormer(variant("lite", labels=LABELS)).eval()


@pytest.mark.parametrize("is_depthwise", [False, True])
@pytest.mark.parametrize(
    ("kernel", "size", "padding"),
    [
        (3, (12, 16), (0, 1, 0, 1)),
        (3, (13, 15), (1, 1, 1, 1)),
        (3, (13, 16), (0, 1, 1, 1)),
        (5, (12, 16), (1, 2, 1, 2)),
        (5, (13, 15), (2, 2, 2, 2)),
        (5, (13, 16), (1, 2, 2, 2)),
    ],
)
def test_strided_convolutions_pad_as_tensorflow_does(
    is_depthwise: bool, kernel: int, size: tuple[int, int], padding: tuple[int, ...]
) -> None:
    """Even sizes more after the end, odd ones the same on both sides."""
    torch.manual_seed(0)
    layer = SameConv(6, 6, kernel=kernel, stride=2, is_depthwise=is_depthwise, activation="none")
    features = torch.randn(2, 6, *size)
    groups = 6 if is_depthwise else 1
    padded = F.pad(features, padding)
    expected = F.conv2d(padded, layer.convolution.weight, layer.convolution.bias, stride=2, groups=groups)
    assert torch.allclose(layer(features), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_dilated_convolution_by_parts_is_the_same_with_its_gradient(kernel: int) -> None:
    torch.manual_seed(0)
    layer = SameConv(8, 8, kernel=kernel, dilation=2, is_depthwise=True, activation="none")
    features = torch.randn(2, 8, 10, 12)
    with torch.no_grad():
        expected = layer(features)
    by_parts = layer(features)
    assert torch.allclose(by_parts, expected, atol=1e-5)
    by_parts.square().sum().backward()
    own = layer.convolution.weight.grad
    layer.convolution.weight.grad = None
    weight, bias = layer.convolution.weight, layer.convolution.bias
    F.conv2d(features, weight, bias, padding=kernel - 1, dilation=2, groups=8).square().sum().backward()
    assert own is not None
    assert torch.allclose(own, layer.convolution.weight.grad, rtol=1e-4, atol=1e-3)


def test_relu6_stops_at_six() -> None:
    layer = SameConv(1, 1)
    nn.init.ones_(layer.convolution.weight)
    nn.init.zeros_(layer.convolution.bias)
    answer = layer(torch.tensor([[[[-1.0, 3.0], [6.0, 9.0]]]]))
    assert answer.flatten().tolist() == [0.0, 3.0, 6.0, 6.0]


def test_plain_attention_of_training_is_the_fused_one() -> None:
    torch.manual_seed(0)
    attention = Attention(16, num_heads=4)
    query, key = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    with torch.no_grad():
        fused = attention(query, key, key)
    assert torch.allclose(attention(query, key, key), fused, atol=1e-6)


@torch.inference_mode()
def test_yamnet_hears_its_own_log_mel(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    waveform = torch.randn(1, 15_600, generator=generator) * torch.logspace(-4, -1, 15_600)
    torch.manual_seed(0)
    own = Yamnet(AudioConfig("yamnet", embedding_dim=1024, log_offset=0.001)).eval()
    plain = Yamnet(AudioConfig("yamnet", embedding_dim=1024, log_offset=0.01)).eval()
    plain.load_state_dict(own.state_dict())
    answer = own.early(log_mel(waveform)[:, None], num_layers=14)
    monkeypatch.setattr("model.network.preprocess.LOG_OFFSET", 0.001)
    expected = plain.early(log_mel(waveform)[:, None], num_layers=14)
    assert torch.allclose(answer, expected, atol=1e-3 * float(expected.abs().max()))


def test_experts_multiply_what_is_seen_and_what_is_heard() -> None:
    experts = KindExperts(4, embedding_dim=2, num_classes=3)
    with torch.no_grad():
        experts.heard.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        experts.heard.bias.zero_()
    seen = torch.tensor([0.0, 8.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    loud = experts.prior(seen, torch.tensor([[9.0, -9.0]])).exp()[0, :, 0, 0]
    other = experts.prior(seen, torch.tensor([[-9.0, 9.0]])).exp()[0, :, 0, 0]
    assert loud[1] > 0.99
    assert other[0] > 0.99
    assert float(loud.detach().sum()) == pytest.approx(1, abs=1e-3)


@torch.inference_mode()
def test_an_untrained_head_leaves_the_answer_to_the_experts(lite: AVESFormer) -> None:
    frames, example = torch.randn(2, 3, 64, 96), torch.randn(2, 1, 96, 64) - 3
    visual, embedding = lite.see(frames), lite.hear(example)
    assert lite.experts is not None
    assert visual.seen is not None
    prior = lite.experts.prior(visual.seen, embedding)
    answer = lite.fuse(visual, embedding)
    assert answer.shape == (2, 4, 16, 24)
    assert torch.allclose(F.interpolate(prior, size=(16, 24), mode="bilinear"), answer, atol=1e-5)


@torch.inference_mode()
def test_windows_of_one_picture_are_fused_as_alone(lite: AVESFormer) -> None:
    frame, examples = torch.randn(1, 3, 64, 64), torch.randn(3, 1, 96, 64) - 3
    together = lite.fuse(lite.see(frame).repeat(3), lite.hear(examples))
    alone = torch.cat([lite(frame, example[None]) for example in examples])
    assert torch.allclose(together, alone, atol=1e-4)


def test_size_and_binary_form(lite: AVESFormer) -> None:
    assert parameter_report(lite)["total"] <= 8_000_000
    binary = AVESFormer(variant("lite"))
    assert binary.experts is None
    with torch.inference_mode():
        assert binary.eval()(torch.randn(1, 3, 64, 64), torch.randn(1, 1, 96, 64)).shape == (1, 1, 16, 16)


def test_configuration_round_trip_and_embedding_width() -> None:
    config = variant("lite", labels=LABELS)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="1024 for yamnet"):
        variant("lite", knobs={"audio.embedding_dim": "128"})
