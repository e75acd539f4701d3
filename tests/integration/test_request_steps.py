"""The steps of ARCHITECTURE.md against a real request: no function of ours runs between two steps of one call stack."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType

import httpx
import pytest
from support.model.untrained import save_untrained
from support.servers.front import running_front

from model.inference import Predictor
from model.network.avesformer import AVESFormer
from service.predictors.torch import load_predictor

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests" / "assets" / "synthetic.mp4"
HANG_S = 120.0


def listed_steps() -> list[str]:
    spec = importlib.util.spec_from_file_location("steps", ROOT / "tests/unit/docs/test_steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [name for name, _ in module.STEPS]


def name_of(code: CodeType) -> str | None:
    """Return the qualified name of a function of ours, None for those of libraries."""
    path = Path(code.co_filename)
    is_ours = path.is_relative_to(ROOT / "service") or path.is_relative_to(ROOT / "model")
    return code.co_qualname.rpartition("<locals>.")[2] if is_ours else None


def thread_stack(frame: FrameType | None) -> list[str]:
    """Return our functions on a thread's stack, outermost first."""
    names: list[str] = []
    while frame is not None:
        if (name := name_of(frame.f_code)) is not None:
            names.insert(0, name)
        frame = frame.f_back
    return names


def task_stack(task: asyncio.Task[object]) -> list[str]:
    """Return our functions that a task awaits, outermost first."""
    return [name for code in _awaited(task.get_coro()) if (name := name_of(code)) is not None]


def _awaited(waiting: object) -> Iterator[CodeType]:
    while waiting is not None:
        if isinstance(waiting, CoroutineType):
            yield waiting.cr_code
            waiting = waiting.cr_await
        elif isinstance(waiting, AsyncGeneratorType):
            yield waiting.ag_code
            waiting = waiting.ag_await
        else:  # `anext` of an asynchronous generator shows it to the garbage collector only
            inner = [one for one in gc.get_referents(waiting) if isinstance(one, AsyncGeneratorType | CoroutineType)]
            waiting = inner[0] if inner else None


def follow_directly(stack: list[str], steps: list[str]) -> bool:
    return any(stack[at : at + len(steps)] == steps for at in range(len(stack)))


async def test_steps_follow_one_another_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, stacks = asyncio.get_running_loop(), list[list[str]]()
    forward = AVESFormer.forward

    def watched(self, *arguments):
        own = thread_stack(sys._getframe().f_back)
        is_warm_up = "BatchRunner.run" not in own  # which goes on beside the first requests
        if not (stacks or is_warm_up) and any(
            "SegmentAnswer" in name for task in asyncio.all_tasks(loop) for name in task_stack(task)
        ):
            stacks.append([*own, "AVESFormer.forward"])
            stacks.extend(task_stack(task) for task in asyncio.all_tasks(loop))
        return forward(self, *arguments)

    monkeypatch.setattr(AVESFormer, "forward", watched)
    monkeypatch.setattr(Predictor, "compile", lambda self: False)  # a graph has no frames of Python
    checkpoint = save_untrained(tmp_path)
    make = partial(load_predictor, checkpoint, device="cpu", threads=1)
    settings = {"cache_bytes": 2**20, "state_dir": tmp_path / "state", "max_batch": 1}
    async with (
        asyncio.timeout(HANG_S),
        running_front(make_predictor=make, **settings) as front,
        httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client,
    ):
        answer = await client.post("/v1/segment", files={"video": CLIP.read_bytes()})
    assert answer.status_code == 200, answer.text

    steps = listed_steps()
    calls = [
        steps[1:4],  # SegmentAnswer.__call__ reads the events of CachedAnswers.answer
        steps[6:8],  # Pipeline._segment waits for MicroBatcher.segment
        steps[9:11],  # MicroBatcher._serve waits for the device
        steps[11:],  # the device thread
    ]
    for call in calls:
        assert any(follow_directly(stack, call) for stack in stacks), (call, stacks)
    assert ["MicroBatcher._run"] in [stack[:1] for stack in stacks]
