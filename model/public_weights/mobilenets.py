"""Load the public weights of `lite` from TensorFlow Lite files: DeepLab over MobileNetV2, and YAMNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from model.network.avesformer import AVESFormer
from model.network.layers import SameConv
from model.network.mobilenet import MobileNetDeepLab
from model.network.yamnet import Yamnet
from model.public_weights.experts import start_heard, start_seen
from model.public_weights.tflite_file import TfliteLayer, read_tflite

TFLITE_SUFFIX = ".tflite"


class LayerError(ValueError):
    """The layers of a file do not match the network's."""


def import_deeplab_tflite(model: AVESFormer, path: Path) -> int:
    """Load the backbone, and the visual expert for the kinds that are Pascal VOC classes.

    Args:
        model: changed in place; unchanged after an error.
        path: a DeepLabv3 over MobileNetV2 1.0 for Pascal VOC, float or quantised.

    Returns:
        Number of loaded tensors.

    Raises:
        LayerError: the file's layers do not match the network's.
    """
    network = model.backbone.network
    if not isinstance(network, MobileNetDeepLab):
        raise LayerError(f"backbone: {model.config.backbone.model_type} has no place for MobileNetV2's weights")
    layers = read_tflite(path)
    if len(layers) < len(_convolutions(network)) + 1:
        raise LayerError(f"{path.name}: got {len(layers)} layers, expected a DeepLabv3 over MobileNetV2")
    *features, aspp, pool, projection, classifier = layers
    count = _fill(network, [*features, pool, aspp, projection], path.name)
    if model.experts is not None:
        kinds = model.config.labels[1:]
        start_seen(model.experts, classifier.weight, classifier.bias, kinds)
        count += 2
    return count


def import_yamnet_tflite(model: AVESFormer, path: Path) -> int:
    """Load the audio branch, and the audio expert for the kinds that are AudioSet classes.

    Args:
        model: changed in place; unchanged after an error.
        path: YAMNet's classifier, float or quantised. A dense layer at the beginning, which computes the mel bands,
            is skipped.

    Returns:
        Number of loaded tensors.

    Raises:
        LayerError: the file's layers do not match the network's.
    """
    if not isinstance(model.audio, Yamnet):
        raise LayerError(f"audio: {model.config.audio.kind} has no place for YAMNet's weights")
    layers = read_tflite(path)
    while layers and layers[0].kind == "dense":
        layers = layers[1:]
    if not layers or layers[-1].kind != "dense":
        raise LayerError(f"{path.name}: the last layer is no classifier, expected YAMNet's")
    *features, classifier = layers
    count = _fill(model.audio, features, path.name)
    if model.experts is not None:
        kinds = model.config.labels[1:]
        start_heard(model.experts, classifier.weight, classifier.bias, kinds)
        count += 2
    return count


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module.convolution for module in network.modules() if isinstance(module, SameConv)]


def _fill(network: nn.Module, layers: Sequence[TfliteLayer], name: str) -> int:
    """Copy convolutions in order and return the number of tensors. Nothing is copied if any shape differs."""
    convolutions = _convolutions(network)
    got = [tuple(layer.weight.shape) for layer in layers]
    expected = [tuple(convolution.weight.shape) for convolution in convolutions]
    if got != expected:
        place = next((i for i, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), -1)
        raise LayerError(
            f"{name}: got {len(got)} convolutions, expected {len(expected)}; the first that differs is number {place}"
        )
    with torch.no_grad():
        for convolution, layer in zip(convolutions, layers, strict=True):
            convolution.weight.copy_(layer.weight)
            if convolution.bias is not None:
                convolution.bias.copy_(layer.bias)
    return 2 * len(convolutions)
