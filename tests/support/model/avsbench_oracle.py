"""A network that knows the miniature AVSBench world: red squares ring high, blue discs hum low."""

from __future__ import annotations

import torch
from torch import Tensor

from model.network.config import ModelConfig
from model.network.preprocess import FRAME_MEAN, FRAME_STD
from model.network.variants import variant

HIGH_BANDS, LOW_BANDS = slice(30, 45), slice(0, 12)
# The last 0.4 s decide, so that what ended earlier is not heard.
END_FRAMES = 40
LOUD = 0.0
CERTAIN = 20.0


class Oracle:
    """The parts of AVESFormer that evaluation uses.

    Args:
        labels: of the model; one for a binary one.
        is_deaf: answer with everything in view.
    """

    def __init__(self, labels: tuple[str, ...] = ("sounding",), *, is_deaf: bool = False) -> None:
        self.config: ModelConfig = variant("tiny", labels=labels)
        self.is_deaf = is_deaf

    def see(self, frames: Tensor) -> Tensor:
        """(B, 2, H, W) which pixels are the square and the disc."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (FRAME_MEAN, FRAME_STD))
        red, _, blue = (frames * std + mean).unbind(dim=1)
        return torch.stack((red - blue > 0.4, blue - red > 0.4), dim=1)

    def hear(self, log_mel: Tensor) -> Tensor:
        """(B, 2) whether the square's and the disc's tone sounds."""
        end = log_mel[:, 0, -END_FRAMES:].mean(dim=1)  # (B, 64)
        high, low = end[:, HIGH_BANDS].amax(dim=1), end[:, LOW_BANDS].amax(dim=1)
        heard = torch.stack((high, low), dim=1) > LOUD
        return torch.ones_like(heard) if self.is_deaf else heard

    def fuse(self, visual: Tensor, embedding: Tensor) -> Tensor:
        """(B, K, H, W) logits, certain of everything."""
        sounding = visual & embedding[:, :, None, None]  # (B, 2, H, W)
        if not self.config.is_semantic:
            return (sounding.any(dim=1, keepdim=True).float() - 0.5) * 2 * CERTAIN
        classes = (sounding * torch.tensor([1, 2]).view(2, 1, 1)).sum(dim=1)
        return torch.nn.functional.one_hot(classes, len(self.config.labels)).permute(0, 3, 1, 2).float() * CERTAIN
