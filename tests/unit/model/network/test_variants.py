"""The big variants: sizes, names of weights, VGGish, the mechanism of the prompts in a network of r50's shape."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from support.model.state_names import STATE_NAMES, state_lines
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.network.avesformer import AVESFormer, parameter_report
from model.network.config import (
    PROMPT_MODES,
    BackboneConfig,
    DecoderConfig,
    HeadConfig,
    ModelConfig,
    PromptConfig,
    PromptMode,
)
from model.network.variants import VARIANTS, variant

AVSS_LABELS = ("background", *(f"class {number}" for number in range(1, 71)))
# Parameters in all, and VGGish's share of them: what the paper's reviewers and summaries say, and counts of the parts.
SIZES = {
    "tiny": (1e6, 4.9e6, 0.1, 0.3),
    "lite": (6.9e6, 7.1e6, 0.44, 0.47),
    "r50": (107e6, 109e6, 0.66, 0.68),
    "r50-paper": (119e6, 125e6, 0.57, 0.61),
    "pvt-v2-b5": (160e6, 170e6, 0.42, 0.46),
}
VGGISH_PARAMETERS = 72_141_184


def shell(config: ModelConfig) -> AVESFormer:
    """The network without numbers: shapes and names only."""
    with torch.device("meta"):
        return AVESFormer(config)


def small_r50(**changes: object) -> ModelConfig:
    """`r50` with the real VGGish and all its parts, over a small backbone and a narrow decoder."""
    resnet = {"embedding_size": 8, "hidden_sizes": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
    values: Mapping[str, object] = {
        "width": 32,
        "backbone": BackboneConfig("resnet", resnet),
        "prompt": PromptConfig(num_prompts=6),
        "decoder": DecoderConfig(num_conv_blocks=1, num_transformer_blocks=2, num_heads=4, ffn_width=64),
        "head": HeadConfig(width=32, kind="conv", hidden_widths=(16, 8), has_final_bias=False),
        **changes,
    }
    return replace(variant("r50"), **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def r50_like() -> AVESFormer:
    torch.manual_seed(0)
    return AVESFormer(small_r50()).eval()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_sizes_are_those_that_are_promised(name: str) -> None:
    report = parameter_report(shell(variant(name)))
    least, most, least_share, most_share = SIZES[name]
    assert least <= report["total"] <= most
    assert least_share <= report["audio"] / report["total"] <= most_share
    assert report["backbone"] + report["audio"] + report["rest"] == report["total"]
    if name not in ("tiny", "lite"):
        assert report["audio"] == VGGISH_PARAMETERS


@pytest.mark.parametrize("name", list(VARIANTS))
def test_names_and_shapes_of_the_weights_are_pinned(name: str) -> None:
    """A change here breaks every checkpoint that is out there."""
    assert state_lines(name) == (STATE_NAMES / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_only_the_last_layer_depends_on_the_number_of_labels(name: str) -> None:
    one = {key: value.shape for key, value in shell(variant(name)).state_dict().items()}
    many = {key: value.shape for key, value in shell(variant(name, labels=AVSS_LABELS)).state_dict().items()}
    # Kind experts are per label, so only semantic networks have them.
    many = {key: shape for key, shape in many.items() if not key.startswith("experts.")}
    assert one.keys() == many.keys()
    changed = {key for key in one if one[key] != many[key]}
    assert changed <= {"head.logits.weight", "head.logits.bias"}
    assert many["head.logits.weight"][0] == 71 * one["head.logits.weight"][0]


@torch.inference_mode()
def test_logits_have_the_resolution_of_the_frames(
    r50_like: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor
) -> None:
    assert r50_like(frames, log_mels).shape == (4, 1, 64, 96)
    assert r50_like.see(frames).focused.shape == (4, 32, 8, 12)  # stride 8


@torch.inference_mode()
def test_a_batch_equals_its_samples_in_any_order(
    r50_like: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor
) -> None:
    together, order = r50_like(frames, log_mels), torch.tensor([2, 0, 3, 1])
    alone = torch.cat([r50_like(frames[i : i + 1], log_mels[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(together[order], r50_like(frames[order], log_mels[order]), atol=1e-4)


@torch.inference_mode()
def test_swapping_the_sound_changes_the_logits(
    r50_like: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor
) -> None:
    difference = (r50_like(frames, log_mels) - r50_like(frames, log_mels.flip(0))).abs().amax(dim=(1, 2, 3))
    assert (difference > 1e-4).all()


def test_untrained_vggish_tells_sounds_apart(r50_like: AVESFormer, log_mels: torch.Tensor) -> None:
    embedding = r50_like.hear(log_mels)
    assert embedding.shape == (4, 128)
    assert float(embedding.min()) >= 0  # the final ReLU
    spread = (embedding - embedding.mean(dim=0)).norm(dim=1)
    assert (spread > 0.05 * embedding.norm(dim=1)).all()


def test_a_frozen_branch_stays_frozen(frames: torch.Tensor, log_mels: torch.Tensor) -> None:
    audio = replace(variant("tiny").audio, is_frozen=True)
    model = AVESFormer(small_r50(audio=audio)).train()
    assert model.backbone.training
    assert not any(module.training for module in model.audio.modules())
    before = {key: value.clone() for key, value in model.audio.state_dict().items()}
    model(frames, log_mels).mean().backward()
    assert all(value.grad is None for value in model.audio.parameters())
    assert all(value.grad is not None for value in model.prompt_query.parameters())
    assert all(value.equal(before[key]) for key, value in model.audio.state_dict().items())
    free = AVESFormer(small_r50(audio=replace(audio, is_frozen=False))).train()
    assert all(module.training for module in free.audio.modules())
    assert all(value.requires_grad for value in free.parameters())


def light(mode: PromptMode) -> AVESFormer:
    """r50's shape over the small audio encoder."""
    torch.manual_seed(1)
    config = small_r50(audio=variant("tiny").audio, prompt=PromptConfig(mode=mode, num_prompts=6))
    return AVESFormer(config).eval()


@pytest.mark.parametrize("mode", PROMPT_MODES)
def test_attention_dissipates_with_the_audio_vector_alone_only(
    frames: torch.Tensor, log_mels: torch.Tensor, mode: PromptMode
) -> None:
    model = light(mode)
    statistics = model.attention_statistics(frames, log_mels)
    assert len(statistics) == 2
    num_keys = {"none": 1, "add": 6, "concat": 7, "concat_mix": 7}[mode]
    for block in statistics:
        if mode == "none":
            assert block.entropy == 0
            assert block.row_distance == 0
        else:
            assert 0 < block.entropy <= torch.tensor(float(num_keys)).log() + 1e-6
            assert 1e-4 < block.row_distance < 2**0.5
    with sdpa_kernel(SDPBackend.MATH):
        logits = model(frames, log_mels)
        (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for block in model.decoder.transformer_blocks:
        layer = block.cross_attention
        gradients = [float(part.weight.grad.norm()) for part in (layer.query, layer.key)]
        value = float(layer.value.weight.grad.norm())
        assert (max(gradients) <= 1e-6 * value) is (mode == "none")


def test_statistics_describe_the_weights_that_forward_uses(frames: torch.Tensor, log_mels: torch.Tensor) -> None:
    model = light("concat")
    block = model.decoder.transformer_blocks[0]
    seen = {}
    hook = block.cross_attention.register_forward_pre_hook(
        lambda _, inputs: seen.update(query=inputs[0], key=inputs[1])
    )
    with torch.inference_mode():
        model(frames, log_mels)
        weights = block.cross_attention.weights(seen["query"], seen["key"]).double()
    hook.remove()
    entropy = float(-(weights * weights.log()).sum(dim=-1).mean())
    rows = weights.flatten(0, 1)
    pairs = (rows[:, :, None] - rows[:, None]).norm(dim=-1)
    length = rows.shape[1]
    first = model.attention_statistics(frames, log_mels)[0]
    assert first.entropy == pytest.approx(entropy, rel=1e-4)
    assert first.row_distance == pytest.approx(float(pairs.sum() / (len(rows) * length * (length - 1))), rel=1e-3)


def test_embeddings_of_another_shape_are_refused(r50_like: AVESFormer, frames: torch.Tensor) -> None:
    visual = r50_like.see(frames)
    for shape in ((3, 128), (4, 64), (4, 1, 128)):
        with pytest.raises(ValueError, match=r"embedding: got .* expected \(4, 128\)"):
            r50_like.fuse(visual, torch.zeros(shape))


def test_logits_are_read_from_the_mask_feature(
    r50_like: AVESFormer, frames: torch.Tensor, log_mels: torch.Tensor
) -> None:
    with torch.inference_mode():
        feature = r50_like.mask_feature(r50_like.see(frames), r50_like.hear(log_mels))
        assert feature.shape == (4, 32, 16, 24)
        assert torch.equal(r50_like.head.predict(feature), r50_like(frames, log_mels))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("fuse_stride", [8, 16])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_convolutional_head_at_every_stride(
    frames: torch.Tensor, log_mels: torch.Tensor, stride: int, fuse_stride: int, norm: str
) -> None:
    head = HeadConfig(width=16, stride=stride, kind="conv", hidden_widths=(16, 8), has_audio_gate=True)
    config = small_r50(audio=variant("tiny").audio, fuse_stride=fuse_stride, head=head, norm=norm)
    with torch.inference_mode():
        assert AVESFormer(config).eval()(frames, log_mels).shape == (4, 1, 64 // stride, 96 // stride)
