"""VGGish, the audio branch of the paper: log-mel to 128 numbers, layer by layer as in its torch port.

Names of the weights are those of the public file (`features.0.weight` ... `embeddings.4.bias`), so it fits as it is.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from model.network.config import VGGISH_DIM, AudioConfig

# Channels of the convolutions; "pool" halves the grid. 96 x 64 becomes 6 x 4 after four halvings.
LAYOUT: tuple[int | str, ...] = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
FLAT_WIDTH = 6 * 4 * 512
HIDDEN_WIDTH = 4096


class Vggish(nn.Module):
    """Audio embedding of one log-mel example (72.14 M parameters, most of them in the first linear layer).

    Google's network ends before the activation; the torch port, which every published result of the field uses, ends
    with a ReLU. `has_final_relu` chooses. PCA and quantisation are left out, as everywhere in the field.

    Untrained weights are drawn so that the spread of the sound survives nine ReLU layers: with torch's defaults
    every sound would give nearly the same vector, and a frozen branch stays as it was drawn.

    Args:
        config: uses `has_final_relu`.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.has_final_relu = config.has_final_relu
        layers: list[nn.Module] = []
        channels = 1
        for entry in LAYOUT:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU()]
            channels = entry
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(FLAT_WIDTH, HIDDEN_WIDTH),
            nn.ReLU(),
            nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH),
            nn.ReLU(),
            nn.Linear(HIDDEN_WIDTH, VGGISH_DIM),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed.

        Args:
            log_mel: (B, 1, 96, 64).

        Returns:
            (B, 128), not negative where the final ReLU is kept.
        """
        features = self.features(log_mel)  # (B, 512, 6, 4)
        flat = features.permute(0, 2, 3, 1).flatten(1)  # (B, 12288), channels last as in the TensorFlow original
        embedding: Tensor = self.embeddings(flat)
        return F.relu(embedding) if self.has_final_relu else embedding
