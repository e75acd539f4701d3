"""The named variants of the network, and single fields of them set by text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from model.network.config import (
    MOBILENET_DEEPLAB,
    SOUNDING,
    YAMNET_DIM,
    AudioConfig,
    BackboneConfig,
    DecoderConfig,
    HeadConfig,
    ModelConfig,
    PromptConfig,
)


def _tiny() -> ModelConfig:
    """The CPU-trained variant: the structure of the big ones at D = 128 (at most 4.9 M parameters)."""
    return ModelConfig(
        variant="tiny",
        input_height=160,
        input_width=160,
        width=128,
        fuse_stride=16,
        has_neck_smoothing=False,
        backbone=BackboneConfig(
            "resnet",
            {
                "embedding_size": 24,
                "hidden_sizes": (32, 64, 128, 192),
                "depths": (1, 1, 1, 1),
                "layer_type": "basic",
            },
        ),
        audio=AudioConfig("small", stage_widths=(16, 32, 64, 96)),
        prompt=PromptConfig(num_prompts=15),
        decoder=DecoderConfig(
            num_conv_blocks=1, conv_kind="residual", num_transformer_blocks=2, num_heads=4, ffn_width=256
        ),
        head=HeadConfig(width=32, stride=2, has_audio_gate=True),
    )


def _lite() -> ModelConfig:
    """The variant for real pictures and sound: DeepLab's MobileNetV2, YAMNet, D = 192 (at most 8 M parameters)."""
    return ModelConfig(
        variant="lite",
        input_height=256,
        input_width=256,
        width=192,
        fuse_stride=16,
        has_neck_smoothing=False,
        backbone=BackboneConfig(MOBILENET_DEEPLAB),
        audio=AudioConfig("yamnet", embedding_dim=YAMNET_DIM, log_offset=0.001),
        prompt=PromptConfig(num_prompts=15),
        decoder=DecoderConfig(
            num_conv_blocks=1, conv_kind="depthwise", num_transformer_blocks=2, num_heads=6, ffn_width=384
        ),
        head=HeadConfig(width=48, stride=4, has_audio_gate=True, has_kind_experts=True),
    )


def _r50() -> ModelConfig:
    """Our reconstruction at its sensible size: ResNet-50, VGGish, 3 + 3 blocks, 107.8 M parameters."""
    return ModelConfig(
        variant="r50",
        norm="group",
        audio=AudioConfig("vggish", is_frozen=True),
        head=HeadConfig(width=256, kind="conv", has_final_bias=False),
    )


def _r50_paper() -> ModelConfig:
    """The paper's size (about 120 M, VGGish about 60 % of it): 6 + 6 blocks, a generator of six layers."""
    return replace(
        _r50(),
        variant="r50-paper",
        prompt=PromptConfig(num_mix_layers=6),
        decoder=DecoderConfig(num_conv_blocks=6, num_transformer_blocks=6),
    )


def _pvt_v2_b5() -> ModelConfig:
    """`r50` over PVTv2-b5, the larger backbone of the paper's neighbours (sizes of its publication)."""
    options = {
        "hidden_sizes": (64, 128, 320, 512),
        "depths": (3, 6, 40, 3),
        "num_attention_heads": (1, 2, 5, 8),
        "mlp_ratios": (4, 4, 4, 4),
        "sr_ratios": (8, 4, 2, 1),
        "drop_path_rate": 0.1,
    }
    return replace(_r50(), variant="pvt-v2-b5", backbone=BackboneConfig("pvt_v2", options))


VARIANTS: Mapping[str, Callable[[], ModelConfig]] = {
    "tiny": _tiny,
    "lite": _lite,
    "r50": _r50,
    "r50-paper": _r50_paper,
    "pvt-v2-b5": _pvt_v2_b5,
}


def variant(name: str, *, labels: tuple[str, ...] = SOUNDING, knobs: Mapping[str, str] | None = None) -> ModelConfig:
    """The configuration of a named variant.

    Args:
        name: a key of `VARIANTS`.
        labels: one per logit channel.
        knobs: other values for single fields, as text: `{"prompt.mode": "add", "decoder.num_conv_blocks": "6"}`.

    Raises:
        ValueError: no such variant or knob, or a value that it cannot take.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant: got {name!r}, expected one of {', '.join(VARIANTS)}")
    config = replace(VARIANTS[name](), labels=labels)
    for key, text in (knobs or {}).items():
        config = _turn(config, key, text)
    return config


def _turn(config: ModelConfig, key: str, text: str) -> ModelConfig:
    """One knob: `part.field` of a part, or `field` of the configuration itself."""
    part_name, dot, name = key.rpartition(".")
    part: Any = getattr(config, part_name, None) if dot else config
    current = getattr(part, name, None) if is_dataclass(part) else None
    if not isinstance(current, bool | int | str) or key == "variant":
        raise ValueError(f"knob: got {key!r}, expected a field such as prompt.mode, decoder.num_conv_blocks or norm")
    value: bool | int | str = text
    if isinstance(current, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{key}: got {text!r}, expected one of 'true', 'false'")
        value = text == "true"
    elif isinstance(current, int):
        if not text.isdecimal():
            raise ValueError(f"{key}: got {text!r}, expected a whole number")
        value = int(text)
    changed: Any = replace(part, **{name: value})
    return replace(config, **{part_name: changed}) if dot else changed
