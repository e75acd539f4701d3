"""Evaluation on AVSBench: its own protocol, order-free figures, the service's audio windows, and wrong sounds.

Figures of different protocols have different names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.data.avsbench.clip import Clip, read_clip, read_sound
from model.data.avsbench.index import ClipFiles
from model.data.avsbench.subsets import AVSS_PADDED_FRAMES, Subset
from model.evaluation.metrics import PROTOCOL_CLIPS_PER_BATCH, BinaryScore, SemanticScore, field_j, mask_iou
from model.evaluation.synthetic import NOISE_LEVEL, Tally, class_probabilities, is_empty, probabilities
from model.network.avesformer import AVESFormer
from model.network.preprocess import WINDOW_SAMPLES, normalise_frames, window_log_mel

HEARING = ("own_iou", "wrong_sound_iou", "off_screen_ok", "silence_ok", "noise_ok")

Progress = Callable[[int, int], None]
Show = Callable[[Clip, Tensor, Tensor | None], None]


@dataclass
class _Sums:
    """Scores accumulated over the clips."""

    own: BinaryScore | SemanticScore
    service: BinaryScore | SemanticScore
    hearing: Tally = field(default_factory=Tally)
    by_category: Tally = field(default_factory=Tally)
    num_frames: int = 0
    num_padded: int = 0
    num_with_wav: int = 0


def evaluate_own_sound(
    model: AVESFormer, clips: Sequence[ClipFiles], *, size_px: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return AVSBench's figures only, with AVSBench's log-mel examples. Training uses this to select a checkpoint.

    Returns:
        The figures of `BinaryScore` or `SemanticScore`.

    Raises:
        ValueError: a clip cannot be read.
    """
    sums = _new_sums(model)
    for batch in protocol_batches(clips, model, size_px=size_px, has_windows=False):
        answer = protocol_answers(model, batch, [torch.cat([clip.log_mel for clip in batch])], device=device)[0]
        _count(sums.own, answer, torch.cat([clip.truth for clip in batch]))
        sums.num_padded += sum(_num_padded(clip) for clip in batch)
    return _figures(sums.own, sums.num_padded)


def evaluate_avsbench(
    model: AVESFormer,
    clips: Sequence[ClipFiles],
    *,
    size_px: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    show: Show | None = None,
) -> dict[str, Any]:
    """Measure a model on one split of a subset.

    Args:
        model: a network in eval mode; semantic for AVSS, binary for S4 and MS3.
        clips: clips of one subset and split.
        size_px: frame height and width.
        device: device of the network.
        progress: called with the numbers of clips done and of all clips.
        show: called with every clip, its classes (T, H, W) int64 with AVSBench's examples, and those with the
            service's windows or None.

    Returns:
        `avsbench_windows` and `service_windows` (the latter None unless every clip has a wav file): figures of
        `BinaryScore` or `SemanticScore`; `hearing`: `own_iou` and `wrong_sound_iou` (plain IoU on frames where
        something sounds, with the own sound and with another clip's, for S4 of another category),
        `off_screen_ok` (S4: share of frames left empty under the sound of another category), `silence_ok`, `noise_ok`;
        `per_class`; counts.

    Raises:
        ValueError: no clips, a clip that cannot be read, or a model of the other kind.
    """
    check_clips(clips, model)
    sums = _new_sums(model)
    has_windows = all(files.wav.is_file() for files in clips)
    done = 0
    for batch in protocol_batches(clips, model, size_px=size_px, has_windows=has_windows):
        others = [sound_of_another_clip(clips, done + place, clip) for place, clip in enumerate(batch)]
        _measure(model, batch, others, sums, device=device, show=show)
        done += len(batch)
        if progress is not None:
            progress(done, len(clips))
    return {
        "num_clips": len(clips),
        "num_frames": sums.num_frames,
        "size_px": size_px,
        "clips_per_batch": PROTOCOL_CLIPS_PER_BATCH,
        "avsbench_windows": _figures(sums.own, sums.num_padded),
        "service_windows": _figures(sums.service, sums.num_padded) if has_windows else None,
        "hearing": {name: sums.hearing.mean(name) for name in HEARING},
        "per_class": _per_class(sums, model.config.labels),
    }


def check_clips(clips: Sequence[ClipFiles], model: AVESFormer) -> None:
    """Raise ValueError if there are no clips, or if one of clips and model is semantic and the other is not."""
    if not clips:
        raise ValueError("no clips are listed in this split")
    if clips[0].subset.is_semantic != model.config.is_semantic:
        kind = "a semantic" if clips[0].subset.is_semantic else "a binary"
        raise ValueError(f"this data needs {kind} checkpoint; this one has {len(model.config.labels)} labels")


def _measure(
    model: AVESFormer,
    batch: list[Clip],
    others: list[tuple[Tensor, bool]],
    sums: _Sums,
    *,
    device: torch.device | str,
    show: Show | None,
) -> None:
    truth = torch.cat([clip.truth for clip in batch])
    sounds = [torch.cat([clip.log_mel for clip in batch]), torch.cat([sound for sound, _ in others])]
    sounds += [repeat_example(torch.zeros(1, WINDOW_SAMPLES), len(truth)), repeat_example(_noise(), len(truth))]
    windows = [clip.windows for clip in batch if clip.windows is not None]
    if windows:
        sounds.append(window_log_mel(torch.cat(windows)))
    own, other, silent, noisy, *served = protocol_answers(model, batch, sounds, device=device)
    _count(sums.own, own, truth)
    sums.num_frames += len(truth)
    sums.num_padded += sum(_num_padded(clip) for clip in batch)
    if served:
        _count(sums.service, served[0], truth)
    _count_hearing(sums.hearing, truth, (own, other, silent, noisy))
    if batch[0].files.subset is Subset.S4 and all(differs for _, differs in others):
        sums.hearing.add("off_screen_ok", is_empty(to_classes(other) > 0))
    own_classes = to_classes(own)
    if batch[0].files.subset is Subset.S4:
        names = [clip.files.category for clip in batch for _ in clip.truth]
        for name, value in zip(names, field_j(own_classes > 0, truth > 0), strict=True):
            sums.by_category.add(name, value)
    if show is not None:
        lengths = [len(clip.frames) for clip in batch]
        served_parts = torch.split(to_classes(served[0]), lengths) if served else [None] * len(batch)
        for clip, answer, answer_served in zip(batch, torch.split(own_classes, lengths), served_parts, strict=True):
            show(clip, answer, answer_served)


def _count_hearing(tally: Tally, truth: Tensor, answers: tuple[Tensor, ...]) -> None:
    own, other, silent, noisy = (to_classes(answer) > 0 for answer in answers)
    masks = truth > 0
    is_sounding = masks.any(dim=2).any(dim=1)
    tally.add("own_iou", mask_iou(own, masks)[is_sounding])
    tally.add("wrong_sound_iou", mask_iou(other, masks)[is_sounding])
    tally.add("silence_ok", is_empty(silent))
    tally.add("noise_ok", is_empty(noisy))


@torch.inference_mode()
def protocol_answers(
    model: AVESFormer, batch: list[Clip], sounds: list[Tensor], *, device: torch.device | str
) -> list[Tensor]:
    """Return the probabilities for each choice of sounds (B, 1, 96, 64): (B, H, W), or (B, K, H, W) if semantic.

    The visual branch runs once. The results are on the CPU.
    """
    frames = torch.cat([clip.frames for clip in batch])
    visual = model.see(normalise_frames(frames.to(device)))
    upsampled = class_probabilities if model.config.is_semantic else probabilities
    height, width = frames.shape[1:3]
    return [
        upsampled(model.fuse(visual, model.hear(sound.to(device))), height=height, width=width).cpu()
        for sound in sounds
    ]


def to_classes(answer: Tensor) -> Tensor:
    """Return classes (B, H, W) int64 of probabilities; 0 and 1 for binary ones."""
    return answer.argmax(dim=1) if answer.ndim == 4 else (answer > 0.5).long()


def _count(score: BinaryScore | SemanticScore, answer: Tensor, truth: Tensor) -> None:
    if isinstance(score, BinaryScore):
        score.add(answer, truth > 0)
    else:
        score.add(to_classes(answer), truth)


def _figures(score: BinaryScore | SemanticScore, num_padded: int) -> dict[str, float]:
    return score.figures() if isinstance(score, BinaryScore) else score.figures(num_padded=num_padded)


def _per_class(sums: _Sums, labels: tuple[str, ...]) -> dict[str, dict[str, float | int]]:
    """Return J by category (S4) or IoU and F by class that occurs (AVSS); MS3 has no classes."""
    if isinstance(sums.own, BinaryScore):
        values = sorted(sums.by_category.values.items())
        return {name: {"field_j": sum(js) / len(js), "num_frames": len(js)} for name, js in values}
    iou, f_score, counts = sums.own.per_class_iou(), sums.own.per_class_f(), sums.own.num_frames
    return {
        label: {"iou": float(iou[i]), "f": float(f_score[i]), "num_frames": int(counts[i])}
        for i, label in enumerate(labels)
        if counts[i] > 0
    }


def protocol_batches(
    clips: Sequence[ClipFiles], model: AVESFormer, *, size_px: int, has_windows: bool = False
) -> Iterator[list[Clip]]:
    """Yield the clips in batches of 2, as AVSBench's figures are defined, with their labelled frames only."""
    num_classes = max(2, len(model.config.labels))
    for start in range(0, len(clips), PROTOCOL_CLIPS_PER_BATCH):
        yield [
            read_clip(files, size_px=size_px, num_classes=num_classes, only_labelled=True, has_windows=has_windows)
            for files in clips[start : start + PROTOCOL_CLIPS_PER_BATCH]
        ]


def sound_of_another_clip(clips: Sequence[ClipFiles], place: int, clip: Clip) -> tuple[Tensor, bool]:
    """Return the sound of a clip half a split away, and whether its category is known to differ.

    Neighbours are avoided because they may be cut from one video. For S4 the next clip of another category is taken.

    Returns:
        Log-mel examples (T, 1, 96, 64) for the T frames of `clip`; True if both categories are known and differ.
    """
    start = place + max(1, len(clips) // 2)
    following = [clips[(start + step) % len(clips)] for step in range(len(clips))]
    differing = next((files for files in following if files.category != clip.files.category), None)
    is_other = clip.files.subset is Subset.S4 and differing is not None
    sound = read_sound(differing if differing is not None and is_other else following[0])
    return sound[torch.arange(len(clip.frames)) % len(sound)], is_other


def _num_padded(clip: Clip) -> int:
    return AVSS_PADDED_FRAMES - len(clip.files.frames) if clip.files.subset.is_semantic else 0


def _new_sums(model: AVESFormer) -> _Sums:
    if model.config.is_semantic:
        count = len(model.config.labels)
        return _Sums(SemanticScore(count), SemanticScore(count))
    return _Sums(BinaryScore(), BinaryScore())


def _noise() -> Tensor:
    return torch.randn(1, WINDOW_SAMPLES, generator=torch.Generator().manual_seed(0)) * NOISE_LEVEL


def repeat_example(window: Tensor, count: int) -> Tensor:
    """Return the log-mel of a window (1, 15600), repeated to (count, 1, 96, 64)."""
    return window_log_mel(window).expand(count, -1, -1, -1)
