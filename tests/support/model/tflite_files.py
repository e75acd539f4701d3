"""TensorFlow Lite files with random weights in the shapes of the public ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.model.tflite_writer import StoredLayer, StoredTensor, write_tflite
from torch import nn

from model.network.avesformer import AVESFormer
from model.network.layers import SameConv

NUM_PASCAL = 21


def floats(values: np.ndarray) -> StoredTensor:
    return StoredTensor(values.astype(np.float32))


def stored(convolution: nn.Conv2d, random: np.random.Generator) -> StoredLayer:
    """Random numbers of a convolution's shape, in TensorFlow's order of axes."""
    shape = tuple(convolution.weight.shape)
    is_depthwise = convolution.groups > 1
    weight = random.standard_normal(shape) * 0.05
    axes = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
    bias = random.standard_normal(shape[0]) * 0.05
    return StoredLayer("depthwise" if is_depthwise else "conv", floats(weight.transpose(axes)), floats(bias))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module.convolution for module in network.modules() if isinstance(module, SameConv)]


def deeplab_file(model: AVESFormer, path: Path, *, seed: int = 0) -> list[StoredLayer]:
    random = np.random.default_rng(seed)
    *features, pool, aspp, projection = [stored(entry, random) for entry in convolutions(model.backbone.network)]
    classifier = StoredLayer(
        "conv",
        floats(random.standard_normal((NUM_PASCAL, 1, 1, 256))),
        floats(random.standard_normal(NUM_PASCAL)),
    )
    # In the public file the branch of the picture's mean comes after the one of each place.
    path.write_bytes(write_tflite([*features, aspp, pool, projection, classifier]))
    return [*features, pool, aspp, projection, classifier]
