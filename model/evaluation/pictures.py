"""Figures on pictures with masks, paired with recordings.

Each picture is paired with recordings of the same split: of a kind in it, of a kind that is not in it, ambience and
silence. A model should mark the sounding kind, and nothing under the other sounds. The pairs are those of
`picture_pairs`, the same for every checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.pictures.frames import IGNORED, Pixels, read_picture, squash
from model.data.pictures.index import Picture, PicturesIndex, Recording
from model.data.pictures.recordings import Waveform, read_recording
from model.evaluation.picture_pairs import Pair, choose_pairs, loudest_window
from model.network.avesformer import AVESFormer
from model.network.kinds import enlarge
from model.network.preprocess import WINDOW_SAMPLES, normalise_frames, window_log_mel

# A mask of less than this share of the frame is empty.
EMPTY_SHARE = 0.005
# Kinds with fewer samples are left out of the mean over kinds.
LEAST_SAMPLES = 10
# A mask matches its truth from this IoU on.
MATCH_IOU = 0.5

Progress = Callable[[int, int], None]
Change = Callable[[Waveform], Waveform]
Show = Callable[["PairAnswer"], None]


@dataclass(frozen=True)
class PairAnswer:
    """A pair, its truth and the network's answer.

    Attributes:
        frame: (H, W, 3) uint8.
        truth: (H, W) uint8: 1 + kind where it sounds, 255 ignored.
        answer: (H, W) uint8: 1 + kind.
        iou: IoU with the sounding pixels; if nothing in the picture sounds, with all annotated objects.
        area: share of the frame that the answer covers.
    """

    pair: Pair
    frame: Pixels
    truth: Pixels
    answer: Pixels
    iou: float
    area: float


@dataclass
class PicturesFigures:
    """Sums over the pairs."""

    kinds: tuple[str, ...]
    iou_by_kind: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    other_iou: list[float] = field(default_factory=list)
    empty: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    two: list[float] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)
    confusions: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain numbers. `score` weighs IoU and the shares of empty answers, see `_score`."""
        means = {kind: float(np.mean(values)) for kind, values in self.iou_by_kind.items()}
        counted = [mean for kind, mean in means.items() if len(self.iou_by_kind[kind]) >= LEAST_SAMPLES]
        empties = {f"{name}_empty": _mean(values) for name, values in self.empty.items()}
        iou, other = _mean(counted), _mean(self.other_iou)
        two = _mean(self.two)
        worst = sorted(self.confusions.items(), key=lambda entry: -entry[1])[:12]
        return {
            "score": _score(iou, two, list(empties.values())),
            "iou_kinds": iou,
            "iou_samples": _mean([value for values in self.iou_by_kind.values() for value in values]),
            "other_sound_iou": other,
            **empties,
            "two_kinds_iou": two,
            "label_accuracy": _mean(self.labels),
            "num_pairs": sum(map(len, self.iou_by_kind.values())),
            "per_kind": {
                kind: {"iou": round(means[kind], 4), "samples": len(self.iou_by_kind[kind])} for kind in sorted(means)
            },
            "confusions": dict(worst),
        }


def evaluate_pictures(
    model: AVESFormer,
    index: PicturesIndex,
    pictures: Sequence[Picture],
    *,
    size_px: int,
    change: Change | None = None,
    has_only_experts: bool = False,
    show: Show | None = None,
    progress: Progress | None = None,
) -> PicturesFigures:
    """Measure a semantic network.

    Args:
        model: in eval mode; its labels are the background and the index's kinds.
        index: pictures and recordings.
        pictures: pictures of one split, from `choose_pictures`.
        size_px: height and width that frames are resized to.
        change: applied to every waveform, such as another gain.
        has_only_experts: measure the baseline instead: the product of kinds seen and kinds heard, without fusion.
        show: called with every answer.
        progress: called with the numbers of pictures done and of all pictures.

    Returns:
        The figures.

    Raises:
        ValueError: the checkpoint has other labels.
    """
    if model.config.labels[1:] != index.kinds:
        raise ValueError("the checkpoint's labels are not the kinds of the annotations")
    figures = PicturesFigures(index.kinds)
    hearing = Hearing(model, change)
    for done, picture in enumerate(pictures, start=1):
        labelled = squash(read_picture(picture), size_px=size_px)
        pairs = choose_pairs(picture, labelled.classes, index)
        if pairs:
            embeddings = torch.cat([hearing.embedding(pair.recording) for pair in pairs])
            answers = answer_sounds(model, labelled.frame, embeddings, has_only_experts=has_only_experts)
            for pair, answer in zip(pairs, answers, strict=True):
                entry = compare_answer(pair, labelled.frame, labelled.classes, answer, index)
                count_answer(figures, entry, index)
                if show is not None:
                    show(entry)
        if progress is not None:
            progress(done, len(pictures))
    return figures


class Hearing:
    """Embeddings of recordings, each computed once.

    Args:
        model: in eval mode.
        change: applied to every waveform; None for none.
    """

    def __init__(self, model: AVESFormer, change: Change | None = None) -> None:
        self._model = model
        self._change = change
        self._known: dict[Recording | None, Tensor] = {}

    def embedding(self, recording: Recording | None) -> Tensor:
        """Return the embedding (1, embedding_dim) of a recording's loudest window; of silence for None."""
        if recording not in self._known:
            silence = np.zeros(WINDOW_SAMPLES, np.float32)
            window = silence if recording is None else loudest_window(read_recording(recording.path))
            self._known[recording] = self.embedding_of(window)
        return self._known[recording]

    @torch.inference_mode()
    def embedding_of(self, window: Waveform) -> Tensor:
        """Return the embedding (1, embedding_dim) of a window (15600,) float32 at 16 kHz."""
        changed = window if self._change is None else self._change(window)
        device = next(self._model.parameters()).device
        waveform = torch.from_numpy(np.ascontiguousarray(changed))[None].to(device)
        return self._model.hear(window_log_mel(waveform))


@torch.inference_mode()
def answer_sounds(
    model: AVESFormer, frame: Pixels, embeddings: Tensor, *, has_only_experts: bool = False
) -> list[Pixels]:
    """Return a frame's answer to each of several sounds.

    Args:
        model: in eval mode.
        frame: (H, W, 3) uint8.
        embeddings: (B, embedding_dim), see `Hearing`.
        has_only_experts: the product of kinds seen and kinds heard instead of the network.

    Returns:
        B arrays (H, W) uint8: 1 + kind at pixels predicted to sound, else 0.

    Raises:
        ValueError: `has_only_experts` of a network without experts.
    """
    frames = normalise_frames(torch.from_numpy(frame)[None].to(embeddings.device))
    visual = model.see(frames).repeat(len(embeddings))
    if has_only_experts:
        if model.experts is None or visual.seen is None:
            raise ValueError("the network has no kind experts")
        logits = model.experts.prior(visual.seen, embeddings)
    else:
        logits = model.fuse(visual, embeddings)
    classes = enlarge(logits, like=frames).argmax(dim=1).to(torch.uint8)  # (B, H, W)
    return list(classes.cpu().numpy())


def compare_answer(pair: Pair, frame: Pixels, classes: Pixels, answer: Pixels, index: PicturesIndex) -> PairAnswer:
    """Compare an answer with what sounds in the picture.

    Args:
        pair: picture and recording.
        frame: (H, W, 3) uint8.
        classes: (H, W) uint8 label map of the picture.
        answer: (H, W) uint8: 1 + kind at pixels predicted to sound.
        index: pictures and recordings.
    """
    counted = classes != IGNORED
    heard = index.heard(pair.kind)
    sounds = np.isin(classes, [1 + kind for kind in heard]) & counted
    truth = np.where(counted, np.where(sounds, classes, 0), IGNORED).astype(np.uint8)
    predicted = (answer > 0) & counted
    if pair.kind is not None:
        right = np.isin(answer, [1 + kind for kind in heard]) & counted
        iou = _iou(right, sounds)
    else:
        iou = _iou(predicted, (classes > 0) & counted)
    return PairAnswer(pair, frame, truth, answer, iou, float(predicted.mean()))


def count_answer(figures: PicturesFigures, entry: PairAnswer, index: PicturesIndex) -> None:
    """Add an answer to the figures."""
    pair = entry.pair
    if pair.kind is None:
        if pair.purpose == "other":
            figures.other_iou.append(entry.iou)
        figures.empty[pair.purpose].append(entry.area < EMPTY_SHARE)
        return
    figures.iou_by_kind[index.kinds[pair.kind]].append(entry.iou)
    if pair.has_two:
        figures.two.append(entry.iou)
    counted = entry.truth != IGNORED
    predicted, sounds = (entry.answer > 0) & counted, (entry.truth > 0) & counted
    labels = np.bincount(entry.answer[predicted], minlength=1)
    if not predicted.any():
        figures.confusions[f"{index.kinds[pair.kind]} > nothing"] += 1
        return
    label = int(labels.argmax()) - 1
    is_right = label in index.heard(pair.kind)
    if _iou(predicted, sounds) >= MATCH_IOU:
        figures.labels.append(is_right)
    if not is_right:
        figures.confusions[f"{index.kinds[pair.kind]} > {index.kinds[label]}"] += 1


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0


def _mean(values: Sequence[float] | Sequence[bool]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _score(iou: float | None, two: float | None, empties: Sequence[float | None]) -> float:
    """Return 0.6 times the IoU over kinds plus 0.4 times the mean of all given figures."""
    parts = [value for value in (iou, two, *empties) if value is not None]
    return round(0.6 * (iou or 0.0) + 0.4 * float(np.mean(parts)), 4)
