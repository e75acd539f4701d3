"""Training task on pictures with masks and on recordings of the same kinds, which were not recorded together."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.data.pictures.compose import PictureSource, draw_picture
from model.data.pictures.frames import LabelledFrame
from model.data.pictures.index import PicturesIndex, read_index
from model.evaluation.picture_pairs import choose_pictures
from model.evaluation.pictures import evaluate_pictures
from model.network.avesformer import AVESFormer
from model.network.config import BACKGROUND
from model.network.mobilenet import DeepLabBackbone
from model.network.preprocess import normalise_frames
from model.network.yamnet import Yamnet
from model.public_weights.load import load_public_weights
from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.tasks.pictures_objective import PictureBatch, PicturesObjective
from model.training.tasks.sound_bank import SoundBank, build_sound_bank

# Of a picture's sounds after the first (a kind in it): another kind in it or the same, a kind that is not in it; the
# rest is ambience or silence.
PRESENT_SHARE, ABSENT_SHARE = 0.35, 0.4
# A kind with fewer pixels than this share of the frame does not count as present.
LEAST_SHARE = 0.002
# Random streams of a run: for pictures, for sounds.
STREAM_PICTURE, STREAM_SOUND = 5, 6
# Number of steps whose pictures are prefetched.
STEPS_AHEAD = 2

Random = np.random.Generator


class PicturesTask:
    """`TrainingTask` over a folder of pictures and recordings (`model.data.pictures.index`).

    Args:
        config: the run.
        device: device that the network is trained on.
        group: processes that share the pictures of a step.

    Raises:
        ValueError: no root, no pictures or recordings, or a variant without kind experts or YAMNet.
    """

    world_version: int | None = None
    evaluate_steps = 0
    frozen_steps = 0
    selection = "score"

    def __init__(self, config: TrainingConfig, *, device: torch.device, group: ProcessGroup) -> None:
        if not config.root:
            raise ValueError("pictures: name the data folder with --root PATH")
        if config.batch_pictures % group.size:
            got = config.batch_pictures
            raise ValueError(f"batch_pictures: got {got}, expected a multiple of {group.size} processes")
        self.config, self.device, self.group = config, device, group
        self.index: PicturesIndex = read_index(Path(config.root))
        self.source = PictureSource.of(self.index, split="train")
        if not self.source.kind_shares.any():
            raise ValueError(f"pictures: no picture for training in {config.root}")
        size_px = config.sizes[-1][1]
        model_config = config.model_config(labels=(BACKGROUND, *self.index.kinds))
        model = AVESFormer(replace(model_config, input_height=size_px, input_width=size_px))
        _freeze(model, config)
        self.objective: nn.Module = PicturesObjective(
            model,
            num_audio_layers=config.audio_frozen_layers,
            teacher=_teacher(model, config),
            teacher_weight=config.teacher_weight,
        ).to(device)
        self.num_steps = config.steps
        self.samples_per_step = config.batch_pictures * config.sounds_per_picture
        self._bank: SoundBank | None = None
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._ahead: deque[tuple[tuple[int, int], Future[list[LabelledFrame]]]] = deque()

    def batch(self, step: int, *, size_px: int) -> PictureBatch:
        """Return this process's pictures of a step, each with its windows."""
        bank = self._sounds()
        pictures = self._pictures(step, size_px)
        random = np.random.default_rng((self.config.seed, STREAM_SOUND, step, self.group.rank))
        classes = np.stack([picture.classes for picture in pictures])
        numbers = choose_sounds(bank, [present_kinds(entry) for entry in classes], self.config, random)
        extra = random.integers(len(bank.sources), size=self.config.heard_windows)
        chosen = torch.from_numpy(np.concatenate((numbers.T.ravel(), extra)))
        return PictureBatch(
            frames=normalise_frames(torch.from_numpy(np.stack([entry.frame for entry in pictures])).to(self.device)),
            classes=torch.from_numpy(classes).long().to(self.device),
            features=bank.features[chosen].float().to(self.device),
            heard=bank.heard[chosen].to(self.device),
            num_sounds=self.config.sounds_per_picture,
        )

    def evaluate(self, model: AVESFormer, *, size_px: int) -> dict[str, Any]:
        """Return figures on the validation pictures and recordings; `score` selects the best checkpoint."""
        chosen = choose_pictures(self.index, split="val", num_pictures=self.config.evaluate_clips or None)
        figures = evaluate_pictures(model, self.index, chosen, size_px=size_px)
        return figures.summary()

    def describe(self) -> dict[str, Any]:
        """Return the numbers of pictures, recordings and pairs."""
        recordings = [entry for entry in self.index.recordings if entry.split == "train"]
        return {
            "kinds": len(self.index.kinds),
            "training_pictures": sum(entry.split == "train" for entry in self.index.pictures),
            "training_recordings": len(recordings),
            "cutouts": len(self.index.cutouts),
            "backgrounds": len(self.index.backgrounds),
            "pairs_per_step": self.samples_per_step,
        }

    def close(self) -> None:
        """Stop prefetching."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _sounds(self) -> SoundBank:
        """The sound bank, built on first use, when the network has its weights."""
        if self._bank is None:
            model = cast(PicturesObjective, self.objective).model
            self._bank = build_sound_bank(
                self.index,
                cast(Yamnet, model.audio),
                num_windows=self.config.sound_windows,
                num_layers=self.config.audio_frozen_layers,
                seed=self.config.seed,
                file=Path(self.config.sound_bank) if self.config.sound_bank else None,
            )
        return self._bank

    def _pictures(self, step: int, size_px: int) -> list[LabelledFrame]:
        while self._ahead and self._ahead[0][0] != (step, size_px):
            self._ahead.popleft()[1].cancel()
        first = 1 + max((key[0] for key, _ in self._ahead), default=step - 1)
        for number in range(first, step + 1 + STEPS_AHEAD):
            self._ahead.append(((number, size_px), self._threads.submit(self._draw, number, size_px)))
        return self._ahead.popleft()[1].result()

    def _draw(self, step: int, size_px: int) -> list[LabelledFrame]:
        numbers = range(self.group.rank, self.config.batch_pictures, self.group.size)
        seeds = [(self.config.seed, STREAM_PICTURE, step, number) for number in numbers]
        return [draw_picture(self.source, np.random.default_rng(seed), size_px=size_px) for seed in seeds]


def present_kinds(classes: NDArray[np.uint8]) -> list[int]:
    """Return the kinds with enough pixels in a label map (H, W)."""
    counts = np.bincount(classes.ravel(), minlength=256)[1:255]
    return [int(kind) for kind in np.flatnonzero(counts >= LEAST_SHARE * classes.size)]


def choose_sounds(bank: SoundBank, present: list[list[int]], config: TrainingConfig, random: Random) -> NDArray[Any]:
    """Choose windows for each picture: the first with a kind of the picture, the others with one, another kind or none.

    Args:
        bank: windows to choose from.
        present: kinds in each of P pictures.
        config: its `sounds_per_picture` is S.
        random: random generator.

    Returns:
        (P, S) int64 indices of windows in the bank.
    """
    num_kinds = len(bank.alone)
    numbers = np.zeros((len(present), config.sounds_per_picture), np.int64)
    for picture, kinds in enumerate(present):
        others = [kind for kind in range(num_kinds) if kind not in kinds and len(bank.alone[kind])]
        order = random.permutation(kinds)
        for place in range(config.sounds_per_picture):
            draw = 0.0 if place == 0 else random.random()
            if len(kinds) and draw < PRESENT_SHARE:
                kind: int | None = int(order[place % len(order)])
            elif others and draw < PRESENT_SHARE + ABSENT_SHARE:
                kind = int(others[random.integers(len(others))])
            else:
                kind = None
            numbers[picture, place] = bank.draw(kind, random)
    return numbers


def _teacher(model: AVESFormer, config: TrainingConfig) -> DeepLabBackbone | None:
    """Return a separate backbone with the public weights of `config.teacher_weights`, in eval mode."""
    if not config.teacher_weights:
        return None
    other = AVESFormer(model.config)
    load_public_weights(other, backbone=config.teacher_weights)
    return cast(DeepLabBackbone, other.backbone.network.eval())


def _freeze(model: AVESFormer, config: TrainingConfig) -> None:
    """Freeze the encoders' early layers.

    Raises:
        ValueError: the network has another backbone or audio branch.
    """
    backbone, audio = model.backbone.network, model.audio
    if not isinstance(backbone, DeepLabBackbone) or not isinstance(audio, Yamnet) or model.experts is None:
        raise ValueError(f"pictures: the variant {config.variant} has no DeepLab backbone, YAMNet or kind experts")
    backbone.mobilenet_v2.freeze(config.visual_frozen_layers)
    for number in range(1, config.audio_frozen_layers + 1):
        cast(nn.Module, getattr(audio, f"layer{number}")).requires_grad_(False)
