"""What the system says about NVIDIA devices, from folders that look like it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.batching import device as device_module
from service.batching.accelerators import driver_version, nvidia_devices
from service.batching.device import BatchRunner
from service.predictors.fake import FakePredictor

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version:\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)  Thu Jan 23\n"


@pytest.mark.parametrize(
    ("text", "version"), [(CLOSED, "535.104.05"), (OPEN, "570.86.15"), ("NVRM version: something new\n", None)]
)
def test_the_driver_is_named(text: str, version: str | None, tmp_path: Path) -> None:
    assert driver_version(tmp_path) is None
    path = tmp_path / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert driver_version(tmp_path) == version


def test_devices_are_gpus_and_not_control_nodes(tmp_path: Path) -> None:
    assert nvidia_devices(tmp_path) == []
    (tmp_path / "dev").mkdir()
    for name in ("nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"):
        (tmp_path / "dev" / name).touch()
    assert nvidia_devices(tmp_path) == ["nvidia0", "nvidia1"]


class OnCpu(FakePredictor):
    """Says that it runs on the CPU."""

    @property
    def device_facts(self) -> dict[str, str]:
        return {"device": "cpu", "dtype": "float32", "cuda": "none"}


class OnCuda(FakePredictor):
    """Says that it runs on a GPU."""

    @property
    def device_facts(self) -> dict[str, str]:
        return {"device": "cuda:0", "dtype": "bfloat16", "cuda": "12.8"}


@pytest.mark.parametrize(
    ("predictor", "devices", "num_warnings"),
    [
        (OnCpu, [], 0),
        (OnCpu, ["nvidia0"], 1),
        (OnCpu, ["nvidia0", "nvidia1"], 1),
        (OnCuda, ["nvidia0"], 0),
        (OnCuda, [], 0),  # /dev need not show what CUDA found
    ],
)
def test_the_cpu_is_never_used_in_silence_beside_a_gpu(
    predictor: type[FakePredictor],
    devices: list[str],
    num_warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(device_module, "nvidia_devices", lambda: devices)
    with caplog.at_level(logging.INFO):
        runner = BatchRunner(predictor, sizes=(1,))
        runner.load()
    assert sum("NVIDIA" in record.message for record in caplog.records) == num_warnings
    [told] = [record for record in caplog.records if record.message == "device"]
    assert vars(told)["device"] == ("cpu" if predictor is OnCpu else "cuda:0")
    assert runner.device_facts.keys() == {"device", "dtype", "cuda", "driver"}
