"""Configuration of a training run: one frozen value, chosen by a recipe and changed by `--set key=value`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from model.network.config import ModelConfig
from model.network.variants import variant

AmpMode = Literal["auto", "off", "bf16", "fp16"]
DataName = Literal["synthetic", "pictures", "avsbench-s4", "avsbench-ms3", "avsbench-avss"]
RateSchedule = Literal["cosine", "constant", "poly"]
Augmentation = Literal["none", "flip", "full"]

# Checkpoints store only the file names of these, because full paths are private.
PATH_FIELDS = ("root", "init", "backbone_weights", "audio_weights", "shards", "sound_bank", "teacher_weights")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run.

    Attributes:
        name: name of the recipe.
        variant: model variant.
        is_semantic: synthetic data: one label per kind instead of one for all. AVSS is always semantic.
        seed: seed of the weights, the order of the data and the augmentation.
        steps: optimizer steps of the whole run.
        max_minutes: wall time after which the run ends with its schedule complete; 0 for no limit.
        batch_samples: synthetic data: samples per step.
        clips_per_group: synthetic data: clips rendered at once; their samples are shuffled over the next steps.
        samples_per_clip: synthetic data: samples per clip; the clip's sound is synthesised once for all of them.
        favoured_kinds: synthetic data: kinds separated by commas that half of the rendered clips show more often: of
            four candidates each, those that show most of these kinds. Empty draws all kinds alike.
        shards: synthetic data: folder of encoded and decoded clips (`avesformer data shards`), or empty.
        shard_share: share of the groups that are read from `shards`.
        sizes: (progress from, frame size in pixels), progress in [0, 1).
        learning_rate: peak learning rate.
        weight_decay: weight decay of matrices and kernels; norms, biases and prompts have none.
        warmup_steps: steps of linear warm-up.
        clip_norm: largest norm of the gradient.
        ema_decay: decay of the averaged weights, which are the ones that are saved.
        amp: `auto` (bf16 on CUDA, off on CPU), `off`, `bf16` or `fp16`.
        device: `auto`, `cpu` or `cuda`.
        save_minutes: minutes between checkpoints.
        evaluate_minutes: minutes between evaluations on unseen clips; 0 for none by time.
        evaluate_clips: clips per evaluation; 0 for all of AVSBench's validation split.
        data: `synthetic`, `pictures` or a part of AVSBench.
        root: folder of AVSBench, or of the pictures and recordings.
        batch_pictures: pictures: number per step, over all processes.
        sounds_per_picture: pictures: windows per picture; the picture's visual features are computed once.
        heard_windows: pictures: additional windows per step, for the audio branch alone.
        sound_windows: pictures: windows that are mixed before the run and sampled from during it.
        sound_bank: pictures: file that stores these windows' features for a resumed run, or empty.
        visual_frozen_layers: pictures: number of frozen residual layers of the MobileNetV2, of 16.
        teacher_weights: pictures: public weights of a teacher backbone. A distillation loss keeps features close to
            the teacher's at pixels of classes that the teacher knows. Empty for no such loss.
        teacher_weight: pictures: weight of the distillation loss.
        audio_frozen_layers: pictures: number of frozen layers of YAMNet, of 14; their features are computed once.
        epochs: AVSBench: passes over the training clips; sets `steps` unless 0.
        batch_clips: AVSBench: clips per step, over all processes.
        evaluate_epochs: AVSBench: epochs between evaluations.
        augmentation: AVSBench: `none` (as AVSBench trains), `flip`, or `full` (flip, colour, zoom).
        loader_threads: AVSBench: threads that prefetch files.
        rate_schedule: `cosine`, `constant` or `poly` (power 0.9), after the warm-up.
        backbone_rate: learning rate of the visual backbone, relative to the other weights.
        audio_rate: learning rate of the audio branch, relative to the other weights.
        backbone_frozen_epochs: AVSBench: number of first epochs in which the backbone is frozen.
        init: checkpoint to start from. A semantic run copies the last layer of a binary checkpoint to each of its
            labels; other weights whose shape differs are initialised at random.
        backbone_weights: public weights of the visual backbone, a file or hub id.
        audio_weights: public weights of the audio branch, a file or hub id.
        has_tensorboard: write TensorBoard logs beside log.jsonl.
        knobs: (`part.field`, value) of the model configuration.
    """

    name: str
    variant: str
    is_semantic: bool = False
    seed: int = 0
    steps: int = 10_000
    max_minutes: float = 0.0
    batch_samples: int = 24
    clips_per_group: int = 16
    samples_per_clip: int = 6
    favoured_kinds: str = ""
    shards: str = ""
    shard_share: float = 0.3
    sizes: tuple[tuple[float, int], ...] = ((0.0, 128),)
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup_steps: int = 300
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    amp: AmpMode = "auto"
    device: str = "auto"
    save_minutes: float = 5.0
    evaluate_minutes: float = 5.0
    evaluate_clips: int = 64
    data: DataName = "synthetic"
    root: str = ""
    batch_pictures: int = 8
    sounds_per_picture: int = 3
    heard_windows: int = 64
    sound_windows: int = 14_000
    sound_bank: str = ""
    visual_frozen_layers: int = 6
    audio_frozen_layers: int = 13
    teacher_weights: str = ""
    teacher_weight: float = 1.0
    epochs: float = 0.0
    batch_clips: int = 4
    evaluate_epochs: float = 1.0
    augmentation: Augmentation = "full"
    loader_threads: int = 4
    rate_schedule: RateSchedule = "cosine"
    backbone_rate: float = 1.0
    audio_rate: float = 1.0
    backbone_frozen_epochs: float = 0.0
    init: str = ""
    backbone_weights: str = ""
    audio_weights: str = ""
    has_tensorboard: bool = False
    knobs: tuple[tuple[str, str], ...] = ()

    @property
    def steps_per_group(self) -> int:
        """Number of steps that one rendered group of clips is used for."""
        return max(1, self.clips_per_group * self.samples_per_clip // self.batch_samples)

    def model_config(self, *, labels: tuple[str, ...]) -> ModelConfig:
        """Configuration of the network to train."""
        return variant(self.variant, labels=labels, knobs=dict(self.knobs))

    def summary(self) -> dict[str, Any]:
        """JSON-serialisable values for a checkpoint's header, without folder names."""
        return asdict(self) | {name: Path(getattr(self, name)).name for name in PATH_FIELDS}


@dataclass
class Position:
    """Progress of a run.

    Attributes:
        step: optimizer steps done.
        elapsed_s: wall time spent, over all resumes.
        best: highest selection figure of the evaluations so far.
    """

    step: int = 0
    elapsed_s: float = 0.0
    best: float = -1.0


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why and what to try."""
