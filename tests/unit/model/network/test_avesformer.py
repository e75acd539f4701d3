"""Invariants of the network: shapes, independence of samples, budget, and the mechanism of the prompts (T1 to T4)."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.network.avesformer import AVESFormer, parameter_report
from model.network.config import PROMPT_MODES, DecoderConfig, HeadConfig, ModelConfig, PromptConfig, PromptMode
from model.network.decoder import FusionBlock
from model.network.layers import Attention, sine_positions
from model.network.prompt_query import PromptQueryGenerator

MAX_TINY_PARAMETERS = 4_900_000


@torch.inference_mode()
def test_logits_have_the_head_stride(tiny: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor) -> None:
    assert tiny(frames, log_mels).shape == (4, 1, 32, 48)


@torch.inference_mode()
def test_batch_of_n_equals_n_singles(tiny: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor) -> None:
    together = tiny(frames, log_mels)
    alone = torch.cat([tiny(frames[i : i + 1], log_mels[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


@torch.inference_mode()
def test_permuting_frames_permutes_masks(tiny: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor) -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(tiny(frames, log_mels)[order], tiny(frames[order], log_mels[order]), atol=1e-4)


@torch.inference_mode()
def test_swapping_the_sound_changes_the_logits(tiny: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor) -> None:
    logits = tiny(frames, log_mels)
    difference = (logits - tiny(frames, log_mels.flip(0))).abs().amax(dim=(1, 2, 3))
    assert torch.equal(logits, tiny(frames, log_mels))  # so that any difference is the sound's
    assert (difference > 1e-5).all()


def test_tiny_keeps_its_budget_and_the_report_adds_up(tiny: AVESFormer) -> None:
    report = parameter_report(tiny)
    assert report["total"] == sum(p.numel() for p in tiny.parameters()) <= MAX_TINY_PARAMETERS
    assert report["backbone"] + report["audio"] + report["rest"] == report["total"]
    assert min(report.values()) > 100_000


@pytest.mark.parametrize("mode", PROMPT_MODES)
def test_number_of_prompt_queries(tiny_config: ModelConfig, mode: PromptMode) -> None:
    generator = PromptQueryGenerator(replace(tiny_config, prompt=PromptConfig(mode=mode, num_prompts=5)))
    queries = generator(torch.randn(3, tiny_config.audio.embedding_dim))
    assert queries.shape == (3, {"none": 1, "add": 5, "concat": 6, "concat_mix": 6}[mode], tiny_config.width)


def cross_attention(num_keys: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Output of a cross-attention over 30 pixels and the gradient norms of its three projections."""
    torch.manual_seed(3)
    layer = Attention(32, num_heads=4)
    pixels, keys = torch.randn(1, 30, 32), torch.randn(1, num_keys, 32)
    with sdpa_kernel(SDPBackend.MATH):
        output = layer(pixels, keys, keys)
        (output * torch.randn(output.shape)).sum().backward()
    parts = {"query": layer.query, "key": layer.key, "value": layer.value}
    return output.detach(), {name: float(part.weight.grad.norm()) for name, part in parts.items()}


def test_a_single_key_gives_every_pixel_the_same_vector() -> None:
    output, gradients = cross_attention(1)
    assert float((output - output[:, :1]).abs().max()) < 1e-6
    assert max(gradients["query"], gradients["key"]) <= 1e-6 * gradients["value"]


@pytest.mark.parametrize("num_keys", [2, 16])
def test_two_keys_or_more_tell_pixels_apart(num_keys: int) -> None:
    output, gradients = cross_attention(num_keys)
    assert float((output - output[:, :1]).abs().max()) > 1e-3
    assert min(gradients["query"], gradients["key"]) > 1e-3 * gradients["value"]


def test_attention_weights_are_the_ones_that_forward_uses() -> None:
    layer = Attention(32, num_heads=4)
    pixels, keys = torch.randn(2, 7, 32), torch.randn(2, 5, 32)
    weights = layer.weights(pixels, keys)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 7), atol=1e-6)
    values = layer.value(keys).view(2, 5, 4, 8).transpose(1, 2)
    by_hand = layer.out((weights @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(pixels, keys, keys), by_hand, atol=1e-5)


def test_a_fusion_block_moves_tokens_towards_what_is_heard() -> None:
    torch.manual_seed(4)
    block = FusionBlock(32, num_heads=4, hidden=64)
    tokens, positions = torch.randn(1, 12, 32), sine_positions(3, 4, channels=32)
    with torch.inference_mode():
        one, other = (block(tokens, torch.randn(1, 6, 32), positions) for _ in range(2))
    assert float((one - other).abs().max()) > 1e-3


def test_positions_differ_everywhere_and_fit_any_grid() -> None:
    for height, width in ((4, 6), (10, 10)):
        positions = sine_positions(height, width, channels=32)[0]
        assert positions.shape == (height * width, 32)
        distances = torch.cdist(positions, positions) + torch.eye(height * width) * 9
        assert float(distances.min()) > 0.1


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("fuse_stride", [8, 16])
def test_every_stride_can_be_built(
    tiny_config: ModelConfig, frames: torch.Tensor, log_mels: torch.Tensor, stride: int, fuse_stride: int
) -> None:
    config = replace(
        tiny_config,
        fuse_stride=fuse_stride,
        has_neck_smoothing=True,
        labels=("background", "dog", "cat"),
        head=HeadConfig(width=16, stride=stride),
        decoder=DecoderConfig(
            num_conv_blocks=1, conv_kind="depthwise", num_transformer_blocks=1, num_heads=4, ffn_width=64
        ),
    )
    model = AVESFormer(config).eval()
    assert model(frames, log_mels).shape == (4, 3, 64 // stride, 96 // stride)


@pytest.mark.parametrize("shape", [(2, 3, 60, 64), (2, 1, 64, 64), (2, 3, 64)])
def test_frames_of_another_shape_are_refused(tiny: AVESFormer, log_mels: torch.Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="frames: got"):
        tiny(torch.zeros(shape), log_mels[:2])


def test_log_mels_of_another_shape_are_refused(tiny: AVESFormer, frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="log_mel: got"):
        tiny(frames, torch.zeros(4, 1, 95, 64))
