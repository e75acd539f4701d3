"""Training on AVSBench-shaped trees: order, labels, schedules, resuming, group, the way to a served model."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model.avsbench_tree import LABELS, make_avss, make_ms3, make_s4
from typer.testing import CliRunner

from model.cli.main import app
from model.cli.training import stopped_by_signals
from model.inference import Predictor
from model.network.avesformer import AVESFormer
from model.network.variants import variant
from model.training.config import TrainingConfig, TrainingError
from model.training.distributed import ProcessGroup
from model.training.recipes import recipe
from model.training.schedule import parameter_groups, rate_share
from model.training.tasks.avsbench import AvsbenchTask
from model.training.tasks.avsbench_objective import ClipBatch, ClipObjective, prepare_clips
from model.training.trainer import Trainer

SUPPORT = Path(__file__).resolve().parents[3] / "support" / "model"
SMALL = ("variant=tiny", "sizes=0:32", "epochs=0", "steps=6", "warmup_steps=1", "learning_rate=2e-3", "device=cpu",
         "backbone_rate=1", "evaluate_epochs=0")  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three parts; tests must not change it."""
    return make_avss(make_ms3(make_s4(tmp_path_factory.mktemp("avsbench"))))


def small(name: str, tree: Path, *more: str) -> TrainingConfig:
    return replace(recipe(name, overrides=(*SMALL, *more)), root=str(tree))


ALONE = ProcessGroup()


def task(config: TrainingConfig, group: ProcessGroup = ALONE) -> AvsbenchTask:
    return AvsbenchTask(config, device=torch.device("cpu"), group=group)


def test_every_epoch_sees_every_clip_once_in_its_own_order(tree: Path) -> None:
    run = task(small("ms3-r50", tree, "batch_clips=3"))
    items = [number for step in range(8) for number in run.order(step)]
    epochs = [items[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    run.close()


def test_processes_share_a_step_without_overlap(tree: Path) -> None:
    config = small("ms3-r50", tree, "batch_clips=4", "augmentation=none")
    parts = [task(config, ProcessGroup(rank, 2)) for rank in range(2)]
    frames = [part.batch(3, size_px=32).frames for part in parts]
    alone = task(config)
    whole = alone.batch(3, size_px=32).frames
    assert torch.equal(whole.unflatten(0, (4, 5))[0::2].flatten(0, 1), frames[0])
    assert torch.equal(whole.unflatten(0, (4, 5))[1::2].flatten(0, 1), frames[1])
    for run in (*parts, alone):
        run.close()
    with pytest.raises(ValueError, match="multiple of 3 processes"):
        task(config, ProcessGroup(0, 3))


def test_a_batch_follows_from_its_step_alone(tree: Path) -> None:
    first, second = (task(small("avss-r50", tree)) for _ in range(2))
    for step in range(3):
        first.batch(step, size_px=32)
    one, other = first.batch(3, size_px=32), second.batch(3, size_px=32)
    assert torch.equal(one.frames, other.frames)
    assert torch.equal(one.truth, other.truth)
    first.close()
    second.close()


def test_s4_trains_on_first_frames_and_avss_on_labelled_ones(tree: Path) -> None:
    s4 = task(small("s4-r50", tree, "batch_clips=4"))
    assert len(s4.batch(0, size_px=32).frames) == 4
    avss = task(small("avss-r50", tree, "batch_clips=4"))
    assert len(avss.batch(0, size_px=32).frames) == 1 + 5 + 10 + 1  # v1s, v1m, v2, v1s
    assert avss.objective.model.config.labels == LABELS
    assert (s4.selection, avss.selection) == ("field_j_2_clips", "field_miou")
    s4.close()
    avss.close()


def test_epochs_set_the_steps(tree: Path) -> None:
    run = task(small("ms3-r50", tree, "epochs=5", "batch_clips=3", "backbone_frozen_epochs=3", "evaluate_epochs=1"))
    assert (run.num_steps, run.frozen_steps, run.evaluate_steps) == (7, 4, 1)
    run.close()


def test_augmentation_moves_picture_and_truth_alike() -> None:
    truth = torch.zeros(16, 64, 64, dtype=torch.int64)
    for row in range(16):
        truth[row, 8 : 24 + row, 10 : 30 + row] = 1
    frames = (truth * 200 + 20).to(torch.uint8)[..., None].expand(-1, -1, -1, 3)
    batch = prepare_clips(
        frames, torch.zeros(16, 1, 96, 64), truth, augmentation="full", generator=torch.Generator().manual_seed(3)
    )
    inside = torch.stack([f[:, t == 1].mean() for f, t in zip(batch.frames, batch.truth, strict=True)])
    outside = torch.stack([f[:, t == 0].mean() for f, t in zip(batch.frames, batch.truth, strict=True)])
    assert float((inside - outside).min()) > 1.5
    assert int((batch.truth != truth).flatten(1).any(dim=1).sum()) > 6


def test_loss_terms_have_their_weights() -> None:
    torch.manual_seed(0)
    objective = ClipObjective(AVESFormer(variant("tiny")))
    frames, log_mel = torch.randn(3, 3, 32, 32), torch.randn(3, 1, 96, 64)
    losses = objective(ClipBatch(frames, log_mel, torch.randint(0, 2, (3, 32, 32))))
    values = {name: float(value.detach()) for name, value in losses.items()}
    assert values["loss"] == pytest.approx(values["mask"] + 0.1 * values["auxiliary"])
    losses["loss"].backward()
    without = [name for name, value in objective.named_parameters() if value.grad is None]
    assert without == []


def test_the_backbone_stands_still_and_then_moves(tree: Path, tmp_path: Path) -> None:
    config = small("ms3-r50", tree, "batch_clips=2", "backbone_frozen_epochs=1", "has_tensorboard=false")
    trainer = Trainer(config, out=tmp_path)

    def backbone() -> list[torch.Tensor]:
        return [value.clone() for value in trainer.model.backbone.state_dict().values()]

    start = backbone()
    for _ in range(2):
        trainer.step()
    assert all(torch.equal(*pair) for pair in zip(start, backbone(), strict=True))
    trainer.step()
    assert not all(torch.equal(*pair) for pair in zip(start, backbone(), strict=True))
    trainer.close()


def test_a_frozen_branch_gets_no_optimizer_state_and_the_backbone_its_own_rate() -> None:
    config = TrainingConfig(name="x", variant="tiny", backbone_rate=0.1, weight_decay=0.05)
    objective = ClipObjective(AVESFormer(variant("tiny", knobs={"audio.is_frozen": "true"})))
    groups = list(parameter_groups(objective, config))
    assert [(group["rate"], group["weight_decay"]) for group in groups] == [
        (1.0, 0.05), (1.0, 0.0), (0.1, 0.05), (0.1, 0.0),
    ]  # fmt: skip
    chosen = {id(value) for group in groups for value in group["params"]}
    assert not chosen & {id(value) for value in objective.model.audio.parameters()}
    slow = {id(value) for group in groups[2:] for value in group["params"]}
    assert slow == {id(value) for value in objective.model.backbone.parameters()}


def test_schedules() -> None:
    assert [rate_share("constant", at) for at in (0.0, 0.7)] == [1.0, 1.0]
    assert rate_share("poly", 0.75) == pytest.approx(0.25**0.9)
    assert rate_share("cosine", 0.0) == pytest.approx(1.0)
    assert rate_share("cosine", 1.0) == pytest.approx(0.01)


def test_a_frozen_vggish_without_weights_is_not_trained(tree: Path, tmp_path: Path) -> None:
    config = small("s4-r50", tree, "audio.kind=vggish", "audio.is_frozen=true", "has_tensorboard=false")
    trainer = Trainer(config, out=tmp_path)
    with pytest.raises(TrainingError, match=r"audio_weights=vggish-10086976\.pth"):
        trainer.run()
    trainer.close()


def test_a_semantic_run_starts_from_a_binary_checkpoint(tree: Path, tmp_path: Path) -> None:
    binary = Trainer(small("s4-r50", tree, "has_tensorboard=false"), out=tmp_path / "binary")
    binary.step()
    binary.save()
    path = tmp_path / "binary" / "model.safetensors"
    semantic = Trainer(small("avss-r50", tree, f"init={path}", "has_tensorboard=false"), out=tmp_path / "semantic")
    assert semantic.initial["init"]["drawn"] == []
    weight = "decoder.norm.weight"
    assert torch.equal(semantic.model.state_dict()[weight], binary.average[weight])
    # What sounds is known from the start, only its name is not.
    batch = binary.task.batch(0, size_px=64)
    with torch.no_grad():
        single = binary.averaged_model()(batch.frames, batch.log_mel).sigmoid()[:, 0]
        shares = semantic.model.eval()(batch.frames, batch.log_mel).softmax(dim=1)
    assert torch.allclose(1 - shares[:, 0], single, atol=1e-4)
    assert torch.allclose(shares[:, 1], shares[:, -1], atol=1e-6)
    other = small("avss-r50", tree, "init=/nowhere/absent.safetensors")
    with pytest.raises(ValueError, match=r"absent\.safetensors"):
        Trainer(other, out=tmp_path / "none")
    binary.close()
    semantic.close()


@pytest.mark.parametrize("name", ["s4-r50", "ms3-r50", "avss-r50"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tree: Path, tmp_path: Path, name: str) -> None:
    config = small(name, tree, "batch_clips=2", "backbone_frozen_epochs=0.5", "has_tensorboard=false")
    whole, broken = (Trainer(config, out=tmp_path / part) for part in ("whole", "broken"))
    for _ in range(4):
        whole.step()
    for _ in range(2):
        broken.step()
    broken.save()
    resumed = Trainer(config, out=tmp_path / "broken")
    resumed.resume()
    for _ in range(2):
        resumed.step()
    for value, again in zip(
        whole.objective.state_dict().values(), resumed.objective.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again)
    assert all(torch.equal(value, resumed.average[key]) for key, value in whole.average.items())
    for trainer in (whole, broken, resumed):
        trainer.close()


def test_a_run_that_is_stopped_is_saved_and_goes_on(tree: Path, tmp_path: Path) -> None:
    config = small("ms3-r50", tree, "batch_clips=2", "steps=3", "evaluate_clips=1", "has_tensorboard=false")
    whole, broken = (Trainer(config, out=tmp_path / part) for part in ("whole", "broken"))
    assert whole.run()
    assert not broken.run(lambda values: broken.stop() if values["step"] == 2 else None)
    assert broken.position.step == 2
    resumed = Trainer(config, out=tmp_path / "broken")
    resumed.resume()
    # Stopped in its last step it is done all the same.
    assert resumed.run(lambda values: resumed.stop())
    assert all(torch.equal(value, resumed.average[key]) for key, value in whole.average.items())


def test_signals_stop_a_run_and_the_second_one_acts_at_once(tree: Path, tmp_path: Path) -> None:
    trainer = Trainer(small("ms3-r50", tree, "has_tensorboard=false"), out=tmp_path)
    # A test run in the background of a script inherits an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with stopped_by_signals(trainer):
        signal.raise_signal(signal.SIGINT)
        assert trainer.is_stopping
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) not in before.values()
    assert {number: signal.getsignal(number) for number in before} == before
    trainer.close()


def test_two_processes_train_one_model_and_resume_it(tree: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(SUPPORT / "two_processes.py"), str(tree), str(tmp_path)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(SUPPORT.parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.strip().splitlines()[-1])
    assert first["whole"] == second["whole"] == first["resumed"] == second["resumed"]
    assert first["losses"] == second["losses"]
    assert sorted(first["own"] + second["own"]) == sorted(first["all"])
    assert not set(first["own"]) & set(second["own"])


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_from_the_tree_to_a_checkpoint_that_serves(tmp_path: Path) -> None:
    root, out = str(make_s4(tmp_path / "data", has_wav=False)), str(tmp_path / "run")
    data = ("--data", "avsbench-s4", "--root", root)
    code, text, _ = run("data", "verify", *data)
    assert code == 0
    assert "train: 4 clips listed, 4 complete, 0 converted" in text
    assert "unverified" in text
    code, text, _ = run("data", "convert", *data)
    assert code == 0
    assert text.startswith("converted 9 from pickles")
    sets = [part for entry in (*SMALL, "batch_clips=4", "steps=25", "augmentation=none") for part in ("--set", entry)]
    code, text, error = run("train", "s4-r50", "--root", root, "--out", out, *sets)
    assert code == 0, error
    assert error.startswith("step 25: J")
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    checkpoint = str(tmp_path / "run" / "model.safetensors")
    assert root not in Path(checkpoint).read_bytes()[:20_000].decode("latin1")
    page = tmp_path / "page.html"
    code, text, error = run("evaluate", *data, "--checkpoint", checkpoint, "--page", str(page))
    assert code == 0, error
    figures = json.loads(text)
    assert figures["data"] == "avsbench-s4"
    assert figures["service_windows"] is None
    assert "avsbench_windows.field_j_2_clips" in error
    assert page.read_text().startswith("<!doctype html>")
    predictor = Predictor.load(checkpoint, device="cpu")
    assert (predictor.info.input_height, predictor.info.labels) == (32, ("sounding",))
    logits = predictor.predict(np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 15_600), np.float32))
    assert logits.shape[:2] == (2, 1)


def test_the_loss_falls(tree: Path, tmp_path: Path) -> None:
    config = small("ms3-r50", tree, "batch_clips=2", "steps=24", "augmentation=none", "backbone_frozen_epochs=0",
                   "has_tensorboard=false")  # fmt: skip
    trainer = Trainer(config, out=tmp_path)
    losses = [trainer.step()["mask"] for _ in range(24)]
    trainer.close()
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_a_plan_is_measured_and_writes_nothing(tree: Path, tmp_path: Path) -> None:
    sets = [part for entry in (*SMALL, "epochs=7", "batch_clips=2") for part in ("--set", entry)]
    code, text, error = run("train", "ms3-r50", "--root", str(tree), "--out", str(tmp_path / "x"), *sets, "--dry-run")
    assert code == 0, error
    plan = json.loads(text)
    assert plan["steps"] == 14
    assert plan["data"]["training_clips"] == 4
    assert plan["data"]["labelled_frames_per_step"] == 10
    assert plan["memory_mb"]["measured_peak"] > plan["memory_mb"]["weights"] > 8
    assert plan["estimated_minutes"] >= 0
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("data", "verify", "--data", "avsbench-s4"), 2, "--root"),
        (("data", "verify", "--data", "avsbench-s4", "--root", "/nowhere"), 1, "s4_meta_data.csv"),
        (("data", "convert", "--data", "other", "--root", "/nowhere"), 2, "avsbench"),
        (("train", "s4-r50"), 1, "--root PATH"),
        (("train", "s4-r50", "--set", "prompt.modes=add"), 2, "prompt.modes"),
        (("train", "s4-r50", "--set", "rate_schedule=step"), 2, "cosine"),
        (("evaluate", "--data", "avsbench-ms3"), 2, "--root"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], code: int, words: str) -> None:
    got, _, error = run(*arguments)
    assert got == code
    assert words in error


def test_verify_exits_with_1_where_something_is_missing(tmp_path: Path) -> None:
    make_ms3(tmp_path)
    (tmp_path / "Multi-sources/ms3_data/visual_frames/ms3_val_0/ms3_val_0.mp4_4.png").unlink()
    report = tmp_path / "report.json"
    code, text, _ = run("data", "verify", "--data", "avsbench-ms3", "--root", str(tmp_path), "--json", str(report))
    assert code == 1
    assert "missing: Multi-sources/ms3_data/visual_frames/ms3_val_0/ms3_val_0.mp4_4.png" in text
    assert len(json.loads(report.read_text())["val"]["missing"]) == 1


def test_training_needs_no_decoder_nor_the_service(tree: Path, tmp_path: Path) -> None:
    """A machine for training may lack PyAV, OpenCV, pycocotools and everything of the service."""
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "sys.modules.update(dict.fromkeys(('av', 'pycocotools', 'service', 'fastapi', 'cv2', 'grpc')))\n"
        "from model.training.recipes import recipe; from model.training.trainer import Trainer; import model.__main__\n"
        "import model.cli.training, model.training.ablation.synthetic, model.training.ablation.run\n"
        f"config = replace(recipe('ms3-r50', overrides={SMALL!r}), root={str(tree)!r})\n"
        f"trainer = Trainer(config, out=Path({str(tmp_path)!r})); trainer.step(); trainer.save(); trainer.close()\n"
        "Trainer(recipe('tiny-synthetic'), out=Path('x'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(SUPPORT.parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-1000:]
