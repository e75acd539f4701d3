"""Robustness to sounds that no object in the picture makes, after AVSBench-Robust (arXiv 2502.00358), on AVSBench.

Each labelled frame is segmented with its own sound and then with silence, with noise and with the sound of something
off screen. Under the last three nothing in the picture sounds, so every pixel that is marked is a false positive.
`robust_pictures` measures the same on pictures with recordings.
AVSBench-Robust's code and files are not used: choice of off-screen clips and loudness of the noise are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.data.avsbench.index import ClipFiles
from model.data.avsbench.subsets import Subset
from model.evaluation.avsbench import (
    check_clips,
    protocol_answers,
    protocol_batches,
    repeat_example,
    sound_of_another_clip,
    to_classes,
)
from model.evaluation.metrics import mask_iou
from model.evaluation.synthetic import Tally, is_empty
from model.network.avesformer import AVESFormer
from model.network.preprocess import WINDOW_SAMPLES

CONDITIONS = ("silence", "noise", "off_screen")
# Root mean square of the white noise in units of full scale, -20 dBFS: as loud as an ordinary recording.
ROBUST_NOISE_LEVEL = 0.1

Progress = Callable[[int, int], None]


@dataclass
class RobustScore:
    """Collects masks under each sound and computes the figures; independent of the data set."""

    tally: Tally = field(default_factory=Tally)

    def add(self, truth: Tensor, own: Tensor, adverse: Mapping[str, Tensor], *, ignored: Tensor | None = None) -> None:
        """Add frames.

        Args:
            truth: (B, H, W) bool, pixels that sound with the frames' own sound.
            own: (B, H, W) bool, the answer to the own sound.
            adverse: by condition, (B, H, W) bool, the answer to a sound that belongs to nothing in the picture.
            ignored: (B, H, W) bool, pixels that count nowhere; None for none.
        """
        counted = torch.ones_like(truth) if ignored is None else ~ignored
        truth, own = truth & counted, own & counted
        is_sounding = truth.flatten(1).any(dim=1)
        own_iou = mask_iou(own, truth)[is_sounding]
        self.tally.add("own", own_iou)
        self.tally.add("own.false_positive_rate", _share(own, counted & ~truth))
        for name, answer in adverse.items():
            masks = answer & counted
            self.tally.add(f"{name}.false_positive_rate", _share(masks, counted))
            self.tally.add(f"{name}.not_empty", (~is_empty(masks)).float())
            self.tally.add(f"{name}.drop", own_iou - mask_iou(masks, truth)[is_sounding])

    def figures(self) -> dict[str, Any]:
        """Return the figures.

        Returns:
            `own_iou`: mean IoU with the own sound, over frames in which something sounds. `own_false_positive_rate`:
            share of the pixels that do not sound with the own sound and are marked. By condition:
            `false_positive_rate` (share of the pixels that is marked), `not_empty` (share of frames with 0.5 % of
            their pixels or more marked) and `drop` (own IoU minus the IoU of the answer with what really sounded; a
            model that ignores sound has a drop of 0). `false_positive_rate` and `drop`: means over the conditions.
        """
        conditions = [name for name in CONDITIONS if f"{name}.drop" in self.tally.values]
        by_condition = {
            name: {key: self.tally.mean(f"{name}.{key}") for key in ("false_positive_rate", "not_empty", "drop")}
            for name in conditions
        }
        means = {
            key: _mean([by_condition[name][key] for name in conditions]) for key in ("false_positive_rate", "drop")
        }
        own = {
            "own_iou": self.tally.mean("own"),
            "own_false_positive_rate": self.tally.mean("own.false_positive_rate"),
        }
        return {**own, **by_condition, **means}


def evaluate_robust(
    model: AVESFormer,
    clips: Sequence[ClipFiles],
    *,
    size_px: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure robustness on AVSBench; classes of a semantic model count together.

    Args:
        model: a network in eval mode; semantic for AVSS, binary for S4 and MS3.
        clips: clips of one subset and split.
        size_px: frame height and width.
        device: device of the network.
        progress: called with the numbers of clips done and of all clips.

    Returns:
        The figures of `RobustScore`, and `off_screen_is_other_category`: True for S4, whose off-screen sound is taken
        from a clip of another category; elsewhere it is another clip's, which may by chance sound like something in
        the picture.

    Raises:
        ValueError: no clips, a clip that cannot be read, or a model of the other kind.
    """
    check_clips(clips, model)
    score = RobustScore()
    are_other, done = True, 0
    noise = white_noise()
    for batch in protocol_batches(clips, model, size_px=size_px):
        others = [sound_of_another_clip(clips, done + place, clip) for place, clip in enumerate(batch)]
        are_other = are_other and all(differs for _, differs in others)
        truth = torch.cat([clip.truth for clip in batch]) > 0
        sounds = [
            torch.cat([clip.log_mel for clip in batch]),
            repeat_example(torch.zeros(1, WINDOW_SAMPLES), len(truth)),
            repeat_example(noise, len(truth)),
            torch.cat([sound for sound, _ in others]),
        ]
        own, *adverse = (to_classes(answer) > 0 for answer in protocol_answers(model, batch, sounds, device=device))
        score.add(truth, own, dict(zip(CONDITIONS, adverse, strict=True)))
        done += len(batch)
        if progress is not None:
            progress(done, len(clips))
    return {**score.figures(), "off_screen_is_other_category": clips[0].subset is Subset.S4 and are_other}


def white_noise() -> Tensor:
    """Return the noise of every frame: (1, 15600) float32, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(1, WINDOW_SAMPLES, generator=generator) * ROBUST_NOISE_LEVEL).clamp(-1, 1)


def _share(masks: Tensor, places: Tensor) -> Tensor:
    """Return (B,) float64: the share of the pixels of `places` (B, H, W) that `masks` has; 0 if there are none."""
    return (masks & places).sum(dim=(1, 2)).double() / places.sum(dim=(1, 2)).double().clamp(min=1)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
