"""Quality of a checkpoint through the whole path: mp4 in, HTTP, RLE out (`make hearing`).

Clips of seeds that training never saw are written as mp4s, posted to a running service, and the returned masks are
compared with the world's truth. The same pictures are posted again with other sound (another choice of sounding objects
mixed from the stems, another clip's sound, off-screen sources alone, ambience alone, silence), and with the same sound
through other levels, codecs, shapes and sizes. Ambiguous samples are left out. Prints a table with the bars and 95 %
intervals (bootstrap over clips), and the seconds that each condition took.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress

from model.data.world.scene import WORLD_VERSION
from service.bench.hearing.conditions import CONDITIONS, choose_conditions, clip_path, load_timing, prepare_clip
from service.bench.hearing.edges import clip_edges
from service.bench.hearing.failures import write_sheets
from service.bench.hearing.score import compare, compare_labels
from service.bench.hearing.table import Outcomes, figures, table
from service.bench.processes import running_service
from service.client.connect import open_client
from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks
from service.settings import Settings

SEMANTIC = "semantic"
# Its clips are of the synthetic world.
SYNTHETIC_CHECKPOINT = Path("tiny")
# Longest wait for the service to say which model it runs.
ANSWER_S = 60.0
Truth = dict[str, Any]
# Number of a clip, its truth, and the answer.
Answer = tuple[int, Truth, Sequence[FrameMasks]]


@dataclass(frozen=True)
class Plan:
    """What to measure: conditions, number of clips, and the folder of the clips."""

    folder: Path
    seed: int
    num_clips: int
    names: tuple[str, ...]
    workers: int


class Stopwatch:
    """Seconds by condition, separately for writing and asking."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    def add(self, name: str, what: str, seconds: float) -> None:
        """Count seconds."""
        entry = self.seconds.setdefault(name, {})
        entry[what] = round(entry.get(what, 0.0) + seconds, 2)


def prepare(plan: Plan, watch: Stopwatch) -> None:
    """Write every condition of every clip with its truth. Existing files are kept."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        pool: Executor | None = None
        if plan.workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(plan.workers, mp_context=get_context("spawn")))
        bar = stack.enter_context(Progress())
        names = [
            [name for name in plan.names if number in CONDITIONS[name].numbers(plan.num_clips)]
            for number in range(plan.num_clips)
        ]
        work = partial(prepare_clip, plan.folder, plan.seed)
        written = (pool.map if pool else map)(work, range(plan.num_clips), names)
        for seconds in bar.track(written, total=plan.num_clips, description="writing clips"):
            for name, value in seconds.items():
                watch.add(name, "write", value)


def answer_clips(url: str, plan: Plan, name: str) -> list[Answer]:
    """Post the clips of a condition that apply; return the answers in the clips' order."""
    options = SegmentOptions(fps=CONDITIONS[name].fps)

    def post(number: int) -> Answer | None:
        path = clip_path(plan.folder, number, name)
        truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if truth is None:
            return None
        return number, truth, client.segment(path, options).frames

    with open_client(url) as client, ThreadPoolExecutor(plan.workers) as pool:
        return [answer for answer in pool.map(post, CONDITIONS[name].numbers(plan.num_clips)) if answer is not None]


def measure(url: str, plan: Plan, outcomes: Outcomes, watch: Stopwatch) -> None:
    """Post every condition and compare."""
    with Progress() as bar:
        for name in bar.track(plan.names, description="asking the service"):
            start_s = time.perf_counter()
            for number, truth, frames in answer_clips(url, plan, name):
                if name.startswith("timing"):
                    ids, states = load_timing(plan.folder, number)
                    outcomes.edges.setdefault(name, []).append(clip_edges(number, truth, ids, states, frames))
                else:
                    outcomes.samples.setdefault(name, []).extend(compare(name, number, truth, frames))
            watch.add(name, "ask", time.perf_counter() - start_s)


def measure_labels(url: str, plan: Plan, outcomes: Outcomes, watch: Stopwatch) -> None:
    """Post the plain clips again, to a semantic checkpoint."""
    start_s = time.perf_counter()
    for number, truth, frames in answer_clips(url, plan, "own"):
        outcomes.samples.setdefault(SEMANTIC, []).extend(compare(SEMANTIC, number, truth, frames))
        outcomes.labels.extend(compare_labels(number, truth, frames))
    watch.add(SEMANTIC, "ask", time.perf_counter() - start_s)


def with_service(url: str | None, checkpoint: Path | None, then: Callable[[str], None]) -> dict[str, Any]:
    """Run `then` against the service at `url`, or one started for it; return the service's description of its model."""
    with ExitStack() as stack:
        if url is None:
            chosen: dict[str, Any] = {"checkpoint": checkpoint.resolve() if checkpoint else SYNTHETIC_CHECKPOINT}
            service = stack.enter_context(running_service(Settings(**chosen)))
            url = f"http://127.0.0.1:{service.http_port}"
        then(url)
        model = httpx.get(f"{url}/version", timeout=ANSWER_S).raise_for_status().json()["model"]
        return {"variant": model["variant"], "checkpoint": model["checkpoint"], "labels": len(model["labels"])}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--conditions", default="", help=f"some of visible, {', '.join(CONDITIONS)}; default: all")
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first clip; below 2**31")
    parser.add_argument("--url", help="of a running service; without it one is started")
    parser.add_argument("--checkpoint", type=Path, help="for the service that is started; default: the shipped tiny")
    parser.add_argument("--semantic", type=Path, metavar="FILE", help="measure this semantic checkpoint's labels too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the clips, made once and used again")
    parser.add_argument("--workers", type=int, default=1, help="clips written, and requests under way, at a time")
    parser.add_argument("--bars", choices=("cpu", "gpu", "aim"), default="cpu", help="by how the model was trained")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--failures", type=Path, metavar="DIR", help="write sheets of the worst answers here")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a bar is missed")
    given = parser.parse_args(arguments)
    try:
        given.names = tuple(choose_conditions([name for name in given.conditions.split(",") if name]))
    except ValueError as error:
        parser.error(str(error))
    return given


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything that was requested and return one report."""
    plan = Plan(folder, given.seed, given.clips, given.names, given.workers)
    outcomes, watch = Outcomes(), Stopwatch()
    start_s = time.perf_counter()
    prepare(plan, watch)
    model = with_service(given.url, given.checkpoint, lambda url: measure(url, plan, outcomes, watch))
    report: dict[str, Any] = {"world_version": WORLD_VERSION, "clips": given.clips, "seed": given.seed, "model": model}
    if given.semantic:
        report[SEMANTIC] = with_service(None, given.semantic, lambda url: measure_labels(url, plan, outcomes, watch))
    if given.failures:
        shown = [s for name in ("own", "remix", "off_screen", "ambience") for s in outcomes.samples.get(name, [])]
        report["failures"] = [path.name for path in write_sheets(shown, given.failures, clips=folder)]
    report["figures"] = figures(outcomes, given.bars)
    report["seconds"] = {"all": round(time.perf_counter() - start_s, 1), **watch.seconds}
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print the table."""
    given = parse(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = run(given, folder)
    console = Console(width=max(120, Console().width))
    model = report["model"]
    console.print(
        table(report["figures"], title=f"{given.clips} clips of world {WORLD_VERSION}, {model['checkpoint']}")
    )
    for name, seconds in report["seconds"].items():
        console.print(f"{name}: {seconds} s", highlight=False)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    missed = [name for name, figure in report["figures"].items() if figure.get("passed") is False]
    return 1 if given.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
