"""The model's commands: exit codes, lazy imports, one line of error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.cli.main import app
from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.network.variants import variant

SMALL_RUN = ("steps=2", "batch_samples=4", "clips_per_group=2", "samples_per_clip=2", "sizes=0:32", "evaluate_clips=2")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def small_train(out: Path, *more: str) -> tuple[int, str, str]:
    sets = [part for entry in SMALL_RUN for part in ("--set", entry)]
    return run("train", "tiny-synthetic", "--out", str(out), *sets, *more)


def test_importing_the_commands_imports_no_torch() -> None:
    code = "import sys, model.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_list_names_the_recipes() -> None:
    code, out, _ = run("train", "--list")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert names == ["tiny-synthetic", "tiny-semantic", "lite-pictures", "s4-r50", "ms3-r50", "avss-r50"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("train", "unknown"),
        ("train", "tiny-synthetic", "--set", "steps=x"),
        ("evaluate", "--data", "unknown"),
        ("synthesize",),
        ("synthesize", "--out", "x", "--visible", "4-1"),
        ("synthesize", "--out", "x", "--width", "7"),
        ("synthesize", "--truth", "some"),
        ("average", "tiny=x", "tiny", "--out", "x"),
    ],
)
def test_bad_arguments_exit_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_train_then_evaluate_then_resume(tmp_path: Path) -> None:
    code, out, error = small_train(tmp_path / "run")
    assert code == 0
    assert error.startswith("step 2: IoU")
    assert "model.safetensors" in out
    code, out, _ = run(
        "evaluate",
        "--checkpoint",
        str(tmp_path / "run" / "model.safetensors"),
        "--num-clips",
        "2",
        "--json",
        str(tmp_path / "f"),
    )
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "f").read_text())
    assert {"iou_sounding", "empty_ok", "field_j", "wrong_sound_iou"} <= set(json.loads(out))
    code, _, error = small_train(tmp_path / "run")
    assert code == 1
    assert "--resume" in error
    assert len(error.splitlines()) == 1
    assert small_train(tmp_path / "run", "--resume")[0] == 0


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    code, out, _ = small_train(tmp_path / "dry", "--dry-run")
    assert code == 0
    plan = json.loads(out)
    assert plan["steps"] == 2
    assert plan["parameters"]["total"] < 4_900_000
    assert not (tmp_path / "dry").exists()


def test_failures_are_one_line_without_traceback(tmp_path: Path, tiny: AVESFormer) -> None:
    code, _, error = run("evaluate", "--checkpoint", str(tmp_path / "absent.safetensors"))
    assert code == 1
    assert error.startswith("error: cannot read the checkpoint absent.safetensors")
    assert len(error.splitlines()) == 1
    code, _, error = small_train(tmp_path / "none", "--resume")
    assert code == 1
    assert "nothing to resume" in error


def test_a_semantic_checkpoint_of_other_labels_is_refused(tmp_path: Path) -> None:
    config = variant("tiny", labels=("background", "dog"))
    path = tmp_path / "semantic.safetensors"
    save_checkpoint(path, config=config, state=AVESFormer(config).state_dict(), world_version=None, training={})
    code, _, error = run("evaluate", "--checkpoint", str(path))
    assert code == 1
    assert "labels are not the kinds" in error


def test_a_semantic_run_starts_from_a_binary_one_and_is_evaluated(tmp_path: Path, tiny: AVESFormer) -> None:
    binary = tmp_path / "binary.safetensors"
    save_checkpoint(binary, config=tiny.config, state=tiny.state_dict(), world_version=None, training={})
    sets = [part for entry in (*SMALL_RUN, f"init={binary}") for part in ("--set", entry)]
    code, _, error = run("train", "tiny-semantic", "--out", str(tmp_path / "run"), *sets)
    assert code == 0, error
    assert error.startswith("step 2: IoU")
    assert "mIoU of present kinds" in error
    checkpoint = tmp_path / "run" / "model.safetensors"
    assert b"binary.safetensors" in checkpoint.read_bytes()[:20_000]
    assert str(tmp_path).encode() not in checkpoint.read_bytes()[:20_000]
    code, out, error = run("evaluate", "--checkpoint", str(checkpoint), "--num-clips", "2")
    assert code == 0, error
    figures = json.loads(out)
    assert {"miou_present_kinds", "label_accuracy", "iou_by_kind", "wrong_sound_iou"} <= set(figures)


def test_synthesize_writes_clips_and_audits(tmp_path: Path) -> None:
    code, out, _ = run(
        "synthesize", "--out", str(tmp_path), "--num", "1", "--width", "64", "--height", "48", "--seconds", "1"
    )
    assert code == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["clip_00000.json", "clip_00000.mp4"]
    code, out, _ = run("synthesize", "--audit", "2")
    assert code == 0
    assert json.loads(out)["num_clips"] == 2
