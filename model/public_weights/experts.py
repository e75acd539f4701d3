"""Initialise the kind experts from the classes of public classifiers that match our kinds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.network.kinds import KindExperts

# Kind to class of DeepLab's Pascal VOC head (0 is the background). Other kinds start with UNKNOWN_BIAS.
PASCAL_CLASSES: Mapping[str, int] = {
    "aircraft": 1,
    "bird": 3,
    "boat": 4,
    "bus": 6,
    "car": 7,
    "cat": 8,
    "cow": 10,
    "dog": 12,
    "horse": 13,
    "motorcycle": 14,
    "person": 15,
    "sheep": 17,
    "train": 19,
}
# Kind to class of YAMNet's AudioSet head.
AUDIOSET_CLASSES: Mapping[str, int] = {
    "person": 0,
    "dog": 69,
    "cat": 76,
    "horse": 82,
    "cow": 85,
    "pig": 88,
    "sheep": 92,
    "chicken": 94,
    "lion": 104,
    "bird": 106,
    "guitar": 135,
    "piano": 148,
    "brass": 180,
    "violin": 186,
    "saxophone": 192,
    "accordion": 204,
    "boat": 295,
    "car": 301,
    "bus": 315,
    "motorcycle": 320,
    "train": 323,
    "aircraft": 329,
    "clock": 400,
    "gun": 421,
}
# Initial bias of a kind that the public classifier has no class for, low enough that the kind starts as a rare one.
UNKNOWN_BIAS = -4.0


def start_seen(experts: KindExperts, weight: Tensor, bias: Tensor, kinds: tuple[str, ...]) -> None:
    """Initialise the visual expert from DeepLab's classifier.

    Args:
        experts: changed in place.
        weight: (21, 256, 1, 1).
        bias: (21,).
        kinds: names of our kinds, without the background.
    """
    rows = [0] + [PASCAL_CLASSES.get(kind, -1) for kind in kinds]
    _start(experts.seen.weight, experts.seen.bias, weight, bias, rows)


def start_heard(experts: KindExperts, weight: Tensor, bias: Tensor, kinds: tuple[str, ...]) -> None:
    """Initialise the audio expert from YAMNet's classifier.

    Args:
        experts: changed in place.
        weight: (521, 1024).
        bias: (521,).
        kinds: names of our kinds, without the background.
    """
    rows = [AUDIOSET_CLASSES.get(kind, -1) for kind in kinds]
    _start(experts.heard.weight, experts.heard.bias, weight, bias, rows)


@torch.no_grad()
def _start(own: Tensor, own_bias: Tensor | None, weight: Tensor, bias: Tensor, rows: list[int]) -> None:
    assert own_bias is not None
    for number, row in enumerate(rows):
        if row >= 0:
            own[number] = weight[row].view_as(own[number])
            own_bias[number] = bias[row]
        else:
            own[number].zero_()
            own_bias[number] = UNKNOWN_BIAS
