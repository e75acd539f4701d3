"""A network that knows `support.model.pictures_folder`: it sees discs and squares by colour and tells hum from hiss."""

from __future__ import annotations

import torch
from support.model.pictures_folder import KINDS
from torch import Tensor

from model.network.avesformer import AVESFormer, VisualFeatures
from model.network.config import BACKGROUND
from model.network.variants import variant

LABELS = (BACKGROUND, *KINDS)


class ColourModel(AVESFormer):
    """Sees red discs and blue squares by colour; tells hum from hiss by the height of the spectrum."""

    def __init__(self, *, is_deaf: bool = False) -> None:
        super().__init__(variant("lite", labels=LABELS))
        self.is_deaf = is_deaf

    def see(self, frames: Tensor, pyramid: object = None) -> VisualFeatures:
        red, blue = frames[:, 0] - frames[:, 2], frames[:, 2] - frames[:, 0]
        seen = torch.stack((torch.full_like(red, 1.2), red, blue), dim=1)  # (B, 3, H, W)
        return VisualFeatures(seen, [], seen)

    def hear(self, log_mel: Tensor) -> Tensor:
        low, high = log_mel[:, 0, :, :32].mean(dim=(1, 2)), log_mel[:, 0, :, 32:].mean(dim=(1, 2))
        is_loud = torch.maximum(low, high) > -3.5
        heard = torch.stack((low > high, low <= high), dim=1) & is_loud[:, None]
        return (heard | self.is_deaf).float()  # (B, 2)

    def fuse(self, visual: VisualFeatures, embedding: Tensor) -> Tensor:
        silent = 100 * (1 - torch.nn.functional.pad(embedding, (1, 0), value=1.0))
        return visual.focused - silent[:, :, None, None]
