"""Robustness to sounds that no object in the picture makes, on pictures with recordings; see `robust`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.data.pictures.frames import IGNORED, Pixels, read_picture, squash
from model.data.pictures.index import Picture, PicturesIndex
from model.evaluation.picture_pairs import Pair, choose_pairs
from model.evaluation.pictures import Hearing, Progress, answer_sounds
from model.evaluation.robust import RobustScore, white_noise
from model.network.avesformer import AVESFormer

OFF_SCREEN = "off_screen"


def evaluate_robust_pictures(
    model: AVESFormer,
    index: PicturesIndex,
    pictures: Sequence[Picture],
    *,
    size_px: int,
    has_only_experts: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a semantic network; its classes count together, as on AVSBench.

    A picture counts once for each recording of a kind in it, with the same silence and noise each time and with
    recordings of kinds that are not in it in turn (`choose_pairs`). Pictures without a recording of their own are left
    out; those without one of another kind have no off-screen sound.

    Args:
        model: in eval mode; its labels are the background and the index's kinds.
        index: pictures and recordings.
        pictures: pictures of one split, from `choose_pictures`.
        size_px: height and width that frames are resized to.
        has_only_experts: measure the product of kinds seen and kinds heard instead.
        progress: called with the numbers of pictures done and of all pictures.

    Returns:
        The figures of `RobustScore`, and `num_pairs`: how often a picture was heard with its own sound.
    """
    score, hearing = RobustScore(), Hearing(model)
    noise = hearing.embedding_of(white_noise()[0].numpy())
    num_pairs = 0
    for done, picture in enumerate(pictures, start=1):
        labelled = squash(read_picture(picture), size_px=size_px)
        pairs = choose_pairs(picture, labelled.classes, index)
        own = [pair for pair in pairs if pair.purpose == "own"]
        others = [pair for pair in pairs if pair.purpose == "other"]
        if own:
            sounds = [*(hearing.embedding(pair.recording) for pair in [*own, *others]), hearing.embedding(None), noise]
            answers = answer_sounds(model, labelled.frame, torch.cat(sounds), has_only_experts=has_only_experts)
            marked = torch.from_numpy(np.stack(answers)) > 0  # (sounds, H, W)
            _add(score, own, labelled.classes, index, marked)
            num_pairs += len(own)
        if progress is not None:
            progress(done, len(pictures))
    return {**score.figures(), "num_pairs": num_pairs}


def _add(score: RobustScore, own: Sequence[Pair], classes: Pixels, index: PicturesIndex, marked: Tensor) -> None:
    """Add a picture.

    Args:
        score: where to.
        own: the pairs with a sound of the picture.
        classes: (H, W) uint8 label map.
        index: pictures and recordings.
        marked: (sounds, H, W) bool, answers to the own sounds, the off-screen ones, silence and noise.
    """
    num = len(own)
    heard = [np.isin(classes, [1 + kind for kind in index.heard(pair.kind)]) for pair in own]
    off_screen = marked[num:-2]
    adverse = {"silence": marked[-2].expand(num, -1, -1), "noise": marked[-1].expand(num, -1, -1)}
    if len(off_screen):
        adverse[OFF_SCREEN] = off_screen[torch.arange(num) % len(off_screen)]
    ignored = torch.from_numpy(classes == IGNORED).expand(num, -1, -1)
    score.add(torch.from_numpy(np.stack(heard)), marked[:num], adverse, ignored=ignored)
