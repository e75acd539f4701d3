"""The model behind the predictor port: what it says, what it raises, how many threads it takes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model.untrained import save_untrained

from service.ports import Predictor
from service.predictors import torch as predictor_torch
from service.predictors.torch import default_parallel_calls, default_threads, load_predictor, usable_cores

ROOT = Path(__file__).parents[4]
# Prints the hash of the logits, whether the kernels were left out, and the shape that an exported network gives.
IMPORT_AND_PREDICT = """
import hashlib, sys
import numpy as np
from pathlib import Path
from service.predictors.torch import import_model, load_predictor
import_model(is_cpu=True)
frames, windows = np.load(sys.argv[2]).values()
logits = load_predictor(Path(sys.argv[1]), device="cpu", threads=1).predict(frames, windows)
is_left_out = "torch._decomp" not in sys.modules
import torch, torch._meta_registrations
exported = torch.export.export(torch.nn.Upsample(scale_factor=2, mode="bilinear"), (torch.zeros(1, 3, 8, 8),))
shape = tuple(exported.module()(torch.ones(1, 3, 8, 8)).shape)
print(hashlib.sha256(logits.tobytes()).hexdigest(), is_left_out, hasattr(torch, "_meta_registrations"), shape, sep=";")
"""

# Prints how many threads a call of the network by a new thread, with no other operation before it, adds.
PREDICT_IN_A_THREAD = """
import os, sys, threading
from pathlib import Path
import numpy as np
import torch
from service.predictors.torch import load_predictor
predictor = load_predictor(Path(sys.argv[1]), device="cpu", threads=1)
pictures, examples = predictor._function.inputs(torch.zeros(1, 64, 64, 3).byte(), torch.zeros(1, 15_600))
predictor._function.inputs = lambda *_: (pictures, examples)  # convolutions come first
num = []
def call():
    predictor.predict(np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 15_600), np.float32))
    num.append(len(os.listdir("/proc/self/task")))
before = len(os.listdir("/proc/self/task"))
thread = threading.Thread(target=call)
thread.start()
thread.join()
print(num[0] - before - 1)
"""


@pytest.fixture(name="predictor", scope="module")
def _predictor(tmp_path_factory) -> Predictor:
    return load_predictor(save_untrained(tmp_path_factory.mktemp("weights")), device="cpu", threads=1)


def sample(predictor: Predictor, num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num)
    frames = rng.integers(0, 256, (num, predictor.info.input_height, predictor.info.input_width, 3)).astype(np.uint8)
    return frames, rng.normal(0, 0.1, (num, 15_600)).astype(np.float32)


def test_it_describes_its_checkpoint_and_answers_in_the_ports_shape(predictor):
    assert (predictor.info.variant, predictor.info.labels) == ("tiny", ("sounding",))
    assert predictor.info.checkpoint.startswith("sha256:")
    logits = predictor.predict(*sample(predictor, 3))
    assert logits.shape[:2] == (3, 1)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert predictor.is_healthy()
    assert predictor.memory_bytes() == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (RuntimeError("CUDA error: device-side assert triggered"), RuntimeError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError),
    ],
)
def test_too_little_memory_is_told_apart_from_a_failure(predictor, error, expected):
    def fail(*_):
        raise error

    hook = predictor._function.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(expected) as caught:
            predictor.predict(*sample(predictor, 1))
    finally:
        hook.remove()
    assert type(caught.value) is expected


@pytest.mark.parametrize("what", [{"checkpoint": "nothing.safetensors"}, {"device": "abacus"}, {"dtype": "float3"}])
def test_what_cannot_be_loaded_is_a_value_error_that_says_why(tmp_path, what):
    path = tmp_path / str(what.pop("checkpoint")) if "checkpoint" in what else save_untrained(tmp_path)
    wanted = next(iter(what.values()), "nothing")
    with pytest.raises(ValueError, match=wanted):
        load_predictor(path, threads=1, **what)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", 16), ("200000 100000", 2), ("450000 100000", 5), ("50000 100000", 1), ("nonsense", 16), (None, 16)],
)
def test_cores_are_those_of_the_process_or_of_its_quota(tmp_path, monkeypatch, text, cores):
    path = tmp_path / "cpu.max"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(predictor_torch, "_CPU_QUOTA", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert usable_cores() == cores


@pytest.mark.parametrize(("cores", "calls", "threads"), [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 4, 1), (16, 4, 2)])
def test_calls_at_once_and_their_threads_follow_from_the_cores(monkeypatch, cores, calls, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(predictor_torch, "_CPU_QUOTA", Path("/nowhere"))
    assert default_parallel_calls() == calls
    assert default_threads() == threads
    assert default_parallel_calls(threads=cores) == 1
    assert default_threads(parallel_calls=1) == max(1, cores // 2)


def test_a_new_thread_takes_no_more_threads_than_the_first(tmp_path):
    """Without OMP_NUM_THREADS, OpenMP gives a thread all cores until PyTorch has told it otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", PREDICT_IN_A_THREAD, str(save_untrained(tmp_path))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_calls_at_the_same_time_answer_as_calls_in_turn(tmp_path):
    predictor = load_predictor(save_untrained(tmp_path), device="cpu", threads=1)
    predictor.compile()
    inputs = [sample(predictor, num) for num in range(1, 9)]
    in_turn = [predictor.predict(*each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda each: predictor.predict(*each), inputs))
    for one, other in zip(in_turn, at_once, strict=True):
        np.testing.assert_array_equal(one, other)


def test_kernels_that_inference_on_a_cpu_does_not_use_can_be_imported_later(tmp_path):
    checkpoint, inputs = save_untrained(tmp_path), tmp_path / "inputs.npz"
    predictor = load_predictor(checkpoint, device="cpu", threads=1)
    frames, windows = sample(predictor, 2)
    np.savez(inputs, frames, windows)
    command = [sys.executable, "-c", IMPORT_AND_PREDICT, str(checkpoint), str(inputs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    expected = hashlib.sha256(predictor.predict(frames, windows).tobytes()).hexdigest()
    assert done.stdout.strip() == f"{expected};True;True;(1, 3, 16, 16)"
