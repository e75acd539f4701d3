"""YAMNet, the audio branch of `lite`: MobileNetV1 over one log-mel example, trained on AudioSet by its authors.

The layers are named as in the Keras model (`layer1.conv`, `layer2.depthwise_conv`, …). Batch norms are folded into the
convolutions. The classifier of 521 AudioSet classes is left out.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from model.network.config import AudioConfig
from model.network.layers import SameConv
from model.network.preprocess import LOG_OFFSET

FIRST_CHANNELS = 32
# (channels, stride) of the separable layers 2 to 14. 96 x 64 becomes 3 x 2.
SEPARABLE_LAYERS = (
    ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + 5 * ((512, 1),) + ((1024, 2), (1024, 1))
)
NUM_LAYERS = 1 + len(SEPARABLE_LAYERS)


class Separable(nn.Module):
    """Depthwise 3x3 convolution, then a pointwise one: (B, C_in, f, m) to (B, C_out, f / stride, m / stride)."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise_conv = SameConv(channels_in, channels_in, kernel=3, stride=stride, is_depthwise=True)
        self.pointwise_conv = SameConv(channels_in, channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """Apply both convolutions."""
        return cast(Tensor, self.pointwise_conv(self.depthwise_conv(features)))


class FirstLayer(nn.Module):
    """3x3 convolution of stride 2: (B, 1, 96, 64) to (B, 32, 48, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = SameConv(1, FIRST_CHANNELS, kernel=3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """Apply the convolution."""
        return cast(Tensor, self.conv(features))


class Yamnet(nn.Module):
    """Audio embedding of one log-mel example: 1024 averages, 3.2 M parameters.

    Args:
        config: uses `embedding_dim` and `log_offset`; widths are those of the public weights.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.log_offset = config.log_offset
        self.layer1 = FirstLayer()
        channels = FIRST_CHANNELS
        for number, (width, stride) in enumerate(SEPARABLE_LAYERS, start=2):
            self.add_module(f"layer{number}", Separable(channels, width, stride=stride))
            channels = width

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed (B, 1, 96, 64) as (B, 1024)."""
        return self.late(self.early(log_mel, num_layers=NUM_LAYERS), num_layers=NUM_LAYERS)

    def early(self, log_mel: Tensor, *, num_layers: int) -> Tensor:
        """Features (B, C, f, m) of VGGish's log-mel (B, 1, 96, 64) after the first `num_layers` of the 14 layers."""
        magnitude = (log_mel.exp() - LOG_OFFSET).clamp(min=0)
        return self._run((magnitude + self.log_offset).log(), range(1, num_layers + 1))

    def late(self, features: Tensor, *, num_layers: int) -> Tensor:
        """Embedding (B, 1024) of the features that `early` returns for the same `num_layers`."""
        return self._run(features, range(num_layers + 1, NUM_LAYERS + 1)).mean(dim=(2, 3))

    def _run(self, features: Tensor, numbers: range) -> Tensor:
        for number in numbers:
            features = getattr(self, f"layer{number}")(features)
        return features
