"""Model configuration: frozen values that live inside the checkpoint. Named ones are in `variants`.

Where the paper is silent the choice is a field here, and its default is called our reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

PromptMode = Literal["none", "add", "concat", "concat_mix"]
ConvKind = Literal["residual", "depthwise"]
AudioKind = Literal["small", "vggish", "yamnet"]
ConvActivation = Literal["relu6", "relu", "none"]
AudioMlp = Literal["linear", "wide"]
NormKind = Literal["batch", "group"]
HeadKind = Literal["shuffle", "conv"]

PROMPT_MODES: tuple[PromptMode, ...] = get_args(PromptMode)
SOUNDING = ("sounding",)
BACKGROUND = "background"
VGGISH_DIM = 128
YAMNET_DIM = 1024
# Masks cannot outlast their sound by more than the window: 15 600 samples at 16 kHz.
MAX_OFFSET_LAG_S = 0.975
# Model types of the backbones with DeepLab's pooling head; the first is that of `lite`. The others are names of
# transformers' AutoBackbone.
MOBILENET_DEEPLAB = "mobilenet_v2_deeplab"
EFFICIENTNET_DEEPLAB = "efficientnet_lite0_deeplab"


@dataclass(frozen=True)
class BackboneConfig:
    """The visual backbone.

    Attributes:
        model_type: `resnet`, `pvt_v2`, `mobilenet_v2_deeplab` or `efficientnet_lite0_deeplab`.
        options: keyword arguments of that model type's class (`model.network.backbones.BACKBONES`).
    """

    model_type: str = "resnet"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AudioConfig:
    """The audio branch.

    Attributes:
        kind: `small` (trained here), `vggish` or `yamnet`.
        embedding_dim: width of the embedding; VGGish has 128 and YAMNet 1024, no others.
        stage_widths: channels of the small encoder's stages; unused by VGGish.
        is_frozen: run without gradient and in eval mode, as the field does with VGGish. Sensible only where
            trained weights are put in.
        has_final_relu: the ReLU of the torch port of VGGish that all published results use.
        log_offset: what the branch's weights expect to be added to mel magnitudes before the logarithm: 0.01 for
            VGGish, 0.001 for YAMNet. The network's input always has VGGish's; `yamnet` converts it.
    """

    kind: AudioKind = "small"
    embedding_dim: int = 128
    stage_widths: tuple[int, ...] = (24, 48, 96, 128)
    is_frozen: bool = False
    has_final_relu: bool = True
    log_offset: float = 0.01


@dataclass(frozen=True)
class PromptConfig:
    """The prompt query generator.

    Attributes:
        mode: `none` (the audio vector alone), `add`, `concat` or `concat_mix`.
        num_prompts: learnable prompts N; unknown in the paper.
        num_mix_layers: self-attention layers of `concat_mix`.
        audio_mlp: `linear` (embedding to width) or `wide` (two hidden layers of 4096).
    """

    mode: PromptMode = "concat_mix"
    num_prompts: int = 100
    num_mix_layers: int = 1
    audio_mlp: AudioMlp = "linear"


@dataclass(frozen=True)
class DecoderConfig:
    """The early-focus decoder: convolution blocks, then transformer blocks, at one resolution."""

    num_conv_blocks: int = 3
    conv_kind: ConvKind = "residual"
    num_transformer_blocks: int = 3
    num_heads: int = 8
    ffn_width: int = 2048


@dataclass(frozen=True)
class HeadConfig:
    """The mask head.

    Attributes:
        width: channels of the laterals and of the mask feature.
        stride: input pixels per logit, 4, 2 or 1.
        has_audio_gate: multiply the mask feature's channels by a sigmoid of the audio embedding.
        kind: `shuffle` (one convolution to the finer pixels of each place) or `conv` (convolution, bilinear lift,
            convolutions at the final resolution: dearer, smoother).
        hidden_widths: channels of `conv` before and after its lift; unused by `shuffle`.
        has_final_bias: of `conv`'s logits; `shuffle` has one always.
        has_kind_experts: start from what is seen times what is heard (`model.network.kinds`); only
            semantic models do.
    """

    width: int = 128
    stride: int = 1
    has_audio_gate: bool = False
    kind: HeadKind = "shuffle"
    hidden_widths: tuple[int, int] = (128, 32)
    has_final_bias: bool = True
    has_kind_experts: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the network and to read its answer.

    Attributes:
        variant: name of the variant it came from.
        labels: one per logit channel. A single label is a binary model (sigmoid); more are semantic
            (softmax) and then the first is `background`.
        input_height: pixels of the frames it was trained on last.
        input_width: likewise.
        width: D, channels of the fused feature.
        fuse_stride: input pixels per token of the decoder, 8 or 16.
        has_neck_smoothing: a 3x3 convolution after the top-down sum.
        norm: after the convolutions of neck, decoder and head: `group` (32 groups, as the neighbours of the paper) or
            `batch` (free in eval mode, where it is folded away).
        offset_lag_s: seconds that masks go on after their sound, as measured with these weights; a window that ends
            with the sample holds a sound that is over for up to a second. Sound events end earlier by it.
    """

    variant: str = "r50"
    labels: tuple[str, ...] = SOUNDING
    input_height: int = 224
    input_width: int = 224
    width: int = 256
    fuse_stride: int = 8
    has_neck_smoothing: bool = True
    norm: NormKind = "batch"
    offset_lag_s: float = 0.0
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        """Check the values that the layers rely on.

        Raises:
            ValueError: a value outside its set, with what was got and what was expected.
        """
        _check("prompt.mode", self.prompt.mode, PROMPT_MODES)
        _check("decoder.conv_kind", self.decoder.conv_kind, get_args(ConvKind))
        _check("audio.kind", self.audio.kind, get_args(AudioKind))
        _check("prompt.audio_mlp", self.prompt.audio_mlp, get_args(AudioMlp))
        _check("head.kind", self.head.kind, get_args(HeadKind))
        _check("norm", self.norm, get_args(NormKind))
        _check("fuse_stride", self.fuse_stride, (8, 16))
        _check("head.stride", self.head.stride, (1, 2, 4))
        for name, count in self._counts().items():
            if count < 1:
                raise ValueError(f"{name}: got {count}, expected at least 1")
        if not 0 <= self.offset_lag_s <= MAX_OFFSET_LAG_S:
            raise ValueError(f"offset_lag_s: got {self.offset_lag_s}, expected 0 to {MAX_OFFSET_LAG_S}")
        if not self.labels:
            raise ValueError("labels: got none, expected at least one")
        if self.is_semantic and self.labels[0] != BACKGROUND:
            raise ValueError(f"labels[0]: got {self.labels[0]!r}, expected {BACKGROUND!r} for more than one label")
        if self.width % (4 * self.decoder.num_heads):
            raise ValueError(f"width: got {self.width}, expected a multiple of 4 x {self.decoder.num_heads} heads")
        fixed = {"vggish": VGGISH_DIM, "yamnet": YAMNET_DIM}.get(self.audio.kind, self.audio.embedding_dim)
        if self.audio.embedding_dim != fixed:
            got = self.audio.embedding_dim
            raise ValueError(f"audio.embedding_dim: got {got}, expected {fixed} for {self.audio.kind}")

    def _counts(self) -> dict[str, int]:
        return {
            "width": self.width,
            "head.width": self.head.width,
            "prompt.num_prompts": self.prompt.num_prompts,
            "decoder.num_heads": self.decoder.num_heads,
            "decoder.ffn_width": self.decoder.ffn_width,
        }

    @property
    def is_semantic(self) -> bool:
        """True where a mask carries a label of its own (softmax over K classes)."""
        return len(self.labels) > 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`, after JSON.

        Raises:
            ValueError: an unknown key (a checkpoint of a newer program) or a bad value.
        """
        parts: dict[str, type[Any]] = {
            "backbone": BackboneConfig,
            "audio": AudioConfig,
            "prompt": PromptConfig,
            "decoder": DecoderConfig,
            "head": HeadConfig,
        }
        nested = {name: _build(kind, values[name]) for name, kind in parts.items() if name in values}
        built: ModelConfig = _build(ModelConfig, {**values, **nested})
        return built


def _check(name: str, value: object, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def _build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = {entry.name for entry in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{kind.__name__}: unknown keys {', '.join(unknown)}")
    built: Any = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    return built
