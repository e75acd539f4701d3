"""The product of a visual and an audio expert, which is the first guess of the masks.

Each pixel gets probabilities of the kinds, each window gets probabilities of the kinds; their product says which pixels
belong to a kind that is heard. The mask head then adds its logits to the logarithm of that product, so that the
network starts where two separate experts would end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Least probability: its logarithm, -9.2, keeps the mask head able to overrule an expert.
LEAST_PROBABILITY = 1e-4


class KindExperts(nn.Module):
    """Linear experts over the coarsest visual map and over the audio embedding.

    Args:
        visual_channels: C of the coarsest map.
        embedding_dim: width of the audio embedding.
        num_classes: K, kinds and the background (class 0).
    """

    def __init__(self, visual_channels: int, *, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.seen = nn.Conv2d(visual_channels, num_classes, 1)
        self.heard = nn.Linear(embedding_dim, num_classes - 1)

    def prior(self, seen: Tensor, embedding: Tensor) -> Tensor:
        """Logarithm of the product.

        Args:
            seen: (B, K, h, w), logits of `self.seen`.
            embedding: (B, embedding_dim).

        Returns:
            (B, K, h, w); float32, the background has what the kinds leave over.
        """
        heard = self.heard(embedding).float().sigmoid()[:, :, None, None]  # (B, K - 1, 1, 1)
        kinds = seen.float().softmax(dim=1)[:, 1:] * heard  # (B, K - 1, h, w)
        background = 1 - kinds.sum(dim=1, keepdim=True)
        return torch.cat((background, kinds), dim=1).clamp(min=LEAST_PROBABILITY).log()


def enlarge(logits: Tensor, *, like: Tensor) -> Tensor:
    """Bilinear enlargement of (B, K, h, w) to the height and width of `like`."""
    return F.interpolate(logits, size=like.shape[-2:], mode="bilinear", align_corners=False)
