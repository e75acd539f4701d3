"""What strangers' bytes cost others: R1 mutated clips, R2 bad files, R3 bombs, R12 cancellations, R14 determinism."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter

import grpc
import httpx
import psutil
from support.clients.abuse_load import Outcome, Target, clients
from support.inputs.clips import make_clip
from support.inputs.hostile import BadFile, base_clip, bomb_files, hostile_corpus
from support.inputs.mutation import mutated
from support.proof import Found, Run, found
from support.servers.service_process import ServiceProcess
from support.waiting import until

from service.client.failures import grpc_error
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

_RAW = {"Content-Type": "video/mp4", "Cache-Control": "no-cache"}
_NUM_CLIENTS = 8
_GUARD_S = 120.0
_PIECE_BYTES = 64 * 1024
MIB = 1024**2


def client_of(running: ServiceProcess) -> httpx.AsyncClient:
    """An HTTP client of the service."""
    return httpx.AsyncClient(base_url=running.url, timeout=_GUARD_S)


def target_of(running: ServiceProcess, clip: bytes, *, path: str = "/segment") -> Target:
    """Where to send a clip."""
    return Target(int(running.url.rpartition(":")[2]), clip, path)


def code_of(answer: httpx.Response) -> str:
    """The stable code of an answer, `ok` for 200."""
    return "ok" if answer.status_code == 200 else str(answer.json()["code"])


async def grpc_code(running: ServiceProcess, data: bytes) -> str:
    """Send an upload over gRPC; its stable code, `ok` for a whole answer.

    In a thread: grpc.aio 1.85 loses the status of a call that is refused while a message is being written.
    """
    return await asyncio.to_thread(_grpc_code, running.grpc_target, data)


def _grpc_code(target: str, data: bytes) -> str:
    pieces = [data[at : at + _PIECE_BYTES] for at in range(0, max(1, len(data)), _PIECE_BYTES)]
    messages = [pb.SegmentRequest(options=pb.SegmentOptions()), *(pb.SegmentRequest(chunk=each) for each in pieces)]
    with grpc.insecure_channel(target) as channel:
        try:
            for _ in SegmentationStub(channel).Segment(iter(messages), timeout=_GUARD_S):
                pass
        except grpc.RpcError as error:
            return grpc_error(error.code(), error.details(), error.trailing_metadata()).code
    return "ok"


async def family_bytes(running: ServiceProcess) -> int:
    """Memory that the service and its children hold."""
    num_bytes = 0
    for process in running.living():
        with contextlib.suppress(psutil.NoSuchProcess):
            num_bytes += process.memory_info().rss
    return num_bytes


async def r1(run: Run, running: ServiceProcess) -> Found:
    """Mutated clips: every answer documented, none of them 5xx, and nothing else changed."""
    clip = base_clip()
    answers: Counter[str] = Counter()
    seconds: list[float] = []
    numbers = iter(range(run.sizes.clips))
    async with client_of(running) as client:

        async def post(data: bytes) -> httpx.Response:
            return await client.post("/segment", content=data, headers=_RAW)

        async def work() -> None:
            for number in numbers:
                since_s = time.perf_counter()
                answer = await post(mutated(clip, random.Random(f"{run.seed} {number}")))
                seconds.append(time.perf_counter() - since_s)
                answers[f"{answer.status_code} {code_of(answer)}"] += 1

        before = (await post(clip)).json()["frames"]
        await asyncio.gather(*(work() for _ in range(_NUM_CLIENTS)))
        after = (await post(clip)).json()["frames"]
    p99_s = sorted(seconds)[int(0.99 * len(seconds))]
    return found(
        {"clips": len(seconds), "p99_s": round(p99_s, 3), "answers": dict(answers.most_common())},
        never={
            "the service died": running.process.poll() is not None,
            "5xx": sum(num for name, num in answers.items() if name.startswith("5")),
            "a good clip is answered otherwise afterwards": before != after,
        },
        bars={"p99 < 1 s": p99_s < 1.0},
    )


async def r2(run: Run, running: ServiceProcess) -> Found:
    """Every bad file over HTTP and gRPC: the code that it is made for."""
    corpus = hostile_corpus()
    if run.sizes.clips < len(corpus):  # a part of it, a different one for each seed
        corpus = random.Random(run.seed).sample(corpus, run.sizes.clips // 2)
    wrong: dict[str, tuple[str, str]] = {}
    async with client_of(running) as client:
        for bad in corpus:
            over_http = code_of(await client.post("/segment", content=bad.data, headers=_RAW))
            over_grpc = await grpc_code(running, bad.data)
            if {over_http, over_grpc} - bad.codes:
                wrong[bad.name] = (over_http, over_grpc)
        is_good = code_of(await client.post("/segment", content=base_clip(), headers=_RAW)) == "ok"
    figures = {"files": len(corpus), "right": len(corpus) - len(wrong), "wrong": wrong}
    return found(figures, never={"undocumented answers": wrong, "a good clip is refused afterwards": not is_good})


async def r3(run: Run, running: ServiceProcess) -> Found:
    """Bombs one after another beside normal clients."""
    bombs: list[BadFile] = list(bomb_files())
    clip = make_clip(num_frames=25, sound="aac")
    alone, beside = Outcome(), Outcome()
    await clients(target_of(running, clip), alone, num=2, seconds=run.sizes.seconds)
    before_bytes = await family_bytes(running)
    slowest_s, most_bytes = 0.0, before_bytes
    async with client_of(running) as client:
        load = asyncio.create_task(clients(target_of(running, clip), beside, num=2, seconds=run.sizes.seconds))
        while not load.done():
            for bad in bombs:
                since_s = time.perf_counter()
                await client.post("/segment", content=bad.data, headers=_RAW)
                slowest_s = max(slowest_s, time.perf_counter() - since_s)
                most_bytes = max(most_bytes, await family_bytes(running))
        await load
    ratio = beside.quantile_s(200, 0.99) / alone.quantile_s(200, 0.99)
    rise_mib = (most_bytes - before_bytes) / MIB
    return found(
        {"slowest_s": round(slowest_s, 3), "rise_mib": round(rise_mib, 1), "neighbours_p99_ratio": round(ratio, 2)},
        never={"neighbours were refused": set(beside.statuses()) - {"200"}},
        bars={"answer <= 2 s": slowest_s <= 2.0, "rise <= 200 MiB": rise_mib <= 200, "p99 <= 1.2 times": ratio <= 1.2},
    )


async def r12(run: Run, running: ServiceProcess) -> Found:
    """Requests that are abandoned at random points: what they held is free within a second."""
    clip = make_clip(num_frames=100, sound="aac")
    rng = random.Random(run.seed)
    num_left = 0
    async with client_of(running) as client:

        async def abandon() -> None:
            nonlocal num_left
            try:
                async with asyncio.timeout(rng.uniform(0.001, 0.3)):
                    await client.post("/segment?fps=native", content=clip, headers=_RAW)
            except TimeoutError:
                num_left += 1

        for _ in range(0, run.sizes.cancels, _NUM_CLIENTS):
            await asyncio.gather(*(abandon() for _ in range(_NUM_CLIENTS)))
        since_s = time.perf_counter()
        await until(lambda: running.metric("places_taken") + running.metric("requests_in_flight") == 0)
        freed_s = time.perf_counter() - since_s
        is_good = code_of(await client.post("/segment", content=clip, headers=_RAW)) == "ok"
    spool = [path for process in running.living()[:1] for path in process.open_files() if "upload-" in path.path]
    return found(
        {"requests": run.sizes.cancels, "abandoned": num_left, "freed_after_s": round(freed_s, 3)},
        never={
            "a good clip is refused afterwards": not is_good,
            "uploads are left": spool,
            "none abandoned": not num_left,
        },
        bars={"freed within 1 s": freed_s <= 1.0},
    )


async def r14(run: Run, running: ServiceProcess) -> Found:
    """The same clip beside random neighbours: the same answer each time, to the byte."""
    clip = make_clip(num_frames=25, sound="aac", flash_frames=frozenset({3, 12}))
    others = [make_clip(num_frames=num, flash_frames=frozenset({1, num - 2})) for num in (5, 12, 40)]
    rng = random.Random(run.seed)
    answers: Counter[bytes] = Counter()
    async with client_of(running) as client:

        async def ask(data: bytes) -> bytes:
            answer = await client.post("/segment?fps=native", content=data, headers=_RAW)
            return answer.content.partition(b'"frames":')[2].partition(b',"events":')[0]

        for _ in range(run.sizes.repeats):
            same, *_ = await asyncio.gather(ask(clip), *(ask(rng.choice(others)) for _ in range(rng.randrange(4))))
            answers[same] += 1
    is_telling = b'"counts":' in next(iter(answers))
    figures = {"times": run.sizes.repeats, "different_answers": len(answers)}
    return found(figures, never={"answers differ": len(answers) > 1, "no masks: it proves nothing": not is_telling})
