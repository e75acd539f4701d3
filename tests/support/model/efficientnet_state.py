"""Random weights of EfficientNet-Lite0 under the published names."""

from __future__ import annotations

import torch
from torch import Tensor

from model.network.mobilenet import EFFICIENTNET_LITE0

# Published blocks: kernel, stride, channels in and out, expansion. Block 11 has a stride of 2 there, and 1 here.
BLOCKS = [(3, 1, 32, 16, 1)]
_channels = 16
for _row in EFFICIENTNET_LITE0.rows:
    BLOCKS.append((_row.kernel, _row.stride, _channels, _row.channels, 6))
    _channels = _row.channels


def published_efficientnet_lite() -> dict[str, Tensor]:
    """Random tensors under the published names."""
    draw = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def norm(name: str, count: int) -> None:
        state[f"{name}.weight"] = 0.5 + torch.rand(count, generator=draw)
        state[f"{name}.bias"] = 0.2 * torch.randn(count, generator=draw)
        state[f"{name}.running_mean"] = 0.2 * torch.randn(count, generator=draw)
        state[f"{name}.running_var"] = 0.5 + torch.rand(count, generator=draw)
        state[f"{name}.num_batches_tracked"] = torch.tensor(1)

    def convolution(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(*shape, generator=draw) / (shape[1] * shape[2] * shape[3]) ** 0.5

    convolution("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, _, channels_in, channels_out, expansion) in enumerate(BLOCKS):
        home, wide = f"_blocks.{number}", expansion * channels_in
        if expansion > 1:
            convolution(f"{home}._expand_conv", wide, channels_in, 1, 1)
            norm(f"{home}._bn0", wide)
        convolution(f"{home}._depthwise_conv", wide, 1, kernel, kernel)
        norm(f"{home}._bn1", wide)
        convolution(f"{home}._project_conv", channels_out, wide, 1, 1)
        norm(f"{home}._bn2", channels_out)
    convolution("_conv_head", 1280, 320, 1, 1)
    return state
