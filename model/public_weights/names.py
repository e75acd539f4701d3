"""Key names of public weights, mapped to our names of the same tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Replacement = str | Callable[[re.Match[str]], str] | None


@dataclass(frozen=True)
class Layout:
    """One way of naming a network's weights.

    Attributes:
        name: project that uses these names.
        signature: keys that identify the layout; the first one also reveals a common prefix.
        rename: maps a key to ours, or to None if the tensor is not used. Raises KeyError for an unknown key.
        split: part of our key, then its replacements for the two halves, where one public tensor holds two of ours.
    """

    name: str
    signature: tuple[str, ...]
    rename: Callable[[str], str | None]
    split: tuple[str, str, str] | None = None


def _renamer(rules: Sequence[tuple[str, Replacement]]) -> Callable[[str], str | None]:
    """Return a function that applies the first matching rule (pattern of the whole key, replacement or None).

    It raises KeyError if no rule matches.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(key: str) -> str | None:
        for pattern, replacement in compiled:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            return replacement(match) if callable(replacement) else replacement and match.expand(replacement)
        raise KeyError(key)

    return rename


def _resnet_place(match: re.Match[str]) -> str:
    """Translate a key of torchvision, such as `layer3.0.conv2.weight`, to transformers' names.

    Stages, layers and parts count from 0 there.
    """
    stage, layer, part, number, rest = match.group("stage", "layer", "part", "number", "rest")
    home = f"encoder.stages.{int(stage) - 1}.layers.{layer}"
    if part == "downsample.":
        return f"{home}.shortcut.{('convolution', 'normalization')[int(number)]}.{rest}"
    kind = "convolution" if part == "conv" else "normalization"
    return f"{home}.layer.{int(number) - 1}.{kind}.{rest}"


def _pvt_place(match: re.Match[str]) -> str:
    """Translate a key of the official PVTv2, such as `block2.5.attn.q.weight`, to transformers' names.

    Stages count from 0 there.
    """
    part = {
        "norm1": "layer_norm_1",
        "norm2": "layer_norm_2",
        "attn.q": "attention.query",
        "attn.kv": "attention.kv",
        "attn.proj": "attention.proj",
        "attn.sr": "attention.spatial_reduction",
        "attn.norm": "attention.layer_norm",
        "mlp.fc1": "mlp.dense1",
        "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
        "mlp.fc2": "mlp.dense2",
    }[match["part"]]
    return f"encoder.layers.{int(match['stage']) - 1}.blocks.{match['block']}.{part}.{match['rest']}"


_VALUE = r"(?P<rest>weight|bias)"
_NORM_VALUE = r"(?P<rest>weight|bias|running_mean|running_var|num_batches_tracked)"
_STAGE = r"layer(?P<stage>[1-4])(?:_1)?\.(?P<layer>\d+)\."

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "resnet": (
        Layout(
            "torchvision",
            ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
            _renamer(
                [
                    (r"conv1\.weight", "embedder.embedder.convolution.weight"),
                    (rf"bn1\.{_NORM_VALUE}", r"embedder.embedder.normalization.\g<rest>"),
                    (rf"{_STAGE}(?P<part>conv)(?P<number>[1-3])\.(?P<rest>weight)", _resnet_place),
                    (rf"{_STAGE}(?P<part>bn)(?P<number>[1-3])\.{_NORM_VALUE}", _resnet_place),
                    (rf"{_STAGE}(?P<part>downsample\.)(?P<number>0)\.(?P<rest>weight)", _resnet_place),
                    (rf"{_STAGE}(?P<part>downsample\.)(?P<number>1)\.{_NORM_VALUE}", _resnet_place),
                    # AVSBench's wrapper contains a second copy of two stages, which its models never run.
                    (r"layer[34]_2\..*", None),
                    (r"fc\.(weight|bias)", None),
                ]
            ),
        ),
        Layout(
            "transformers",
            ("embedder.embedder.convolution.weight",),
            _renamer([(r"(embedder|encoder)\..*", r"\g<0>")]),
        ),
    ),
    "pvt_v2": (
        Layout(
            "PVT",
            ("patch_embed1.proj.weight", "block1.0.attn.q.weight"),
            _renamer(
                [
                    (
                        rf"patch_embed(?P<stage>[1-4])\.proj\.{_VALUE}",
                        lambda m: f"encoder.layers.{int(m['stage']) - 1}.patch_embedding.proj.{m['rest']}",
                    ),
                    (
                        rf"patch_embed(?P<stage>[1-4])\.norm\.{_VALUE}",
                        lambda m: f"encoder.layers.{int(m['stage']) - 1}.patch_embedding.layer_norm.{m['rest']}",
                    ),
                    (
                        r"block(?P<stage>[1-4])\.(?P<block>\d+)\."
                        r"(?P<part>norm[12]|attn\.(?:q|kv|proj|sr|norm)|mlp\.(?:fc[12]|dwconv\.dwconv))"
                        rf"\.{_VALUE}",
                        _pvt_place,
                    ),
                    (
                        rf"norm(?P<stage>[1-4])\.{_VALUE}",
                        lambda m: f"encoder.layers.{int(m['stage']) - 1}.layer_norm.{m['rest']}",
                    ),
                    (r"head\.(weight|bias)", None),
                ]
            ),
            split=("attention.kv.", "attention.key.", "attention.value."),
        ),
        Layout(
            "transformers",
            ("encoder.layers.0.patch_embedding.proj.weight",),
            _renamer([(r"encoder\..*", r"\g<0>")]),
        ),
    ),
    "vggish": (
        Layout(
            "torchvggish",
            ("features.0.weight", "embeddings.0.weight"),
            # PCA of the post-processor, which audio-visual segmentation does not use.
            _renamer([(r"(features|embeddings)\.\d+\.(weight|bias)", r"\g<0>"), (r"pproc\..*", None)]),
        ),
    ),
}
