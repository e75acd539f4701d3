"""Experiments R1 to R17: each prints its figure beside its bar, with command, seed and date; also as JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much an experiment does.

    Attributes:
        clips: mutated clips of R1.
        kills: decoder children killed in R5; a tenth as many workers are killed in R4.
        seconds: duration of each load of R3, R6, R8 and of the keys.
        slow: slow clients of each sort in R8.
        requests: mixed requests of R9.
        cancels: requests abandoned in R12.
        repeats: times that the same clip is asked in R14.
        job_s: length of the clip of the long job, in seconds.
        job_batch_s: time of a batch of the long job; so that a short one does not end before it is killed.
    """

    clips: int = 10_000
    kills: int = 200
    seconds: float = 10.0
    slow: int = 500
    requests: int = 20_000
    cancels: int = 1000
    repeats: int = 1000
    job_s: float = 7200.0
    job_batch_s: float = 0.0


FAST = Sizes(clips=60, kills=4, seconds=1.0, slow=20, requests=60, cancels=24, repeats=16, job_s=200.0, job_batch_s=0.1)
"""What `make test` runs."""


@dataclass(frozen=True, slots=True)
class Run:
    """What an experiment is given."""

    seed: int = 0
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def num_worker_kills(self) -> int:
        """Workers killed in R4."""
        return max(1, self.sizes.kills // 10)


@dataclass(frozen=True, slots=True)
class Found:
    """What an experiment showed.

    Attributes:
        figures: by name.
        faults: what must never happen, on any machine.
        missed: bars of time that were missed, which a busy machine may do.
    """

    figures: dict[str, object]
    faults: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def found(figures: dict[str, object], *, never: dict[str, object], bars: dict[str, bool] | None = None) -> Found:
    """Return what was found: each entry of `never` that is true is a fault, each of `bars` that is false is missed."""
    faults = [name for name, is_so in never.items() if is_so]
    return Found(figures, faults, [name for name, is_met in (bars or {}).items() if not is_met])


@dataclass(frozen=True, slots=True)
class Experiment:
    """One row of the table."""

    number: str
    bar: str
    run: Callable[[Run], Coroutine[Any, Any, Found]]


async def suite(*paths: str) -> Found:
    """Run tests that are the experiment; every one of them must pass."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *paths),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    summary = output.decode().strip().splitlines()[-1]
    return found(
        {"tests": summary, "of": [Path(path).name for path in paths]}, never={"a test failed": process.returncode}
    )


def main(title: str, make: str, experiments: Sequence[Experiment]) -> int:
    """Parse the command line, run, print one line for each experiment; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--only", action="append", default=[], choices=[one.number for one in experiments])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    for name, default in vars_of(Sizes()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    run = Run(given.seed, Sizes(**{name: getattr(given, name) for name in vars_of(Sizes())}))
    command = f'{make}="{" ".join(sys.argv[1:])}"'
    rows = []
    for one in experiments:
        if not given.only or one.number in given.only:
            rows.append(_row(one, run, command))
            print(_line(rows[-1]), flush=True)  # noqa: T201  # the figures are what the script is for
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return int(any(row["result"] != "pass" for row in rows))


def vars_of(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes by name."""
    return {name: getattr(sizes, name) for name in Sizes.__dataclass_fields__}


def _row(one: Experiment, run: Run, command: str) -> dict[str, Any]:
    busy_s, since_s = _others_s(), time.monotonic()
    result = asyncio.run(one.run(run))
    others_cores = (_others_s() - busy_s) / (time.monotonic() - since_s)
    return {
        "number": one.number,
        "result": "FAIL" if result.faults else "missed" if result.missed else "pass",
        "bar": one.bar,
        "figures": result.figures,
        "faults": result.faults,
        "missed": result.missed,
        "command": command,
        "seed": run.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "others_cores": round(max(0.0, others_cores), 2),
    }


def _others_s() -> float:
    """Processor seconds of all cores so far that neither this process nor a child of it used."""
    machine, own_s = psutil.cpu_times(), sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            own_s += sum(child.cpu_times()[:4])
    busy_s = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0)
    return float(busy_s - own_s)


def _line(row: dict[str, Any]) -> str:
    why = "; ".join([*row["faults"], *row["missed"]])
    return (
        f"{row['number']}: {row['result']}{f' ({why})' if why else ''}; {json.dumps(row['figures'])}; "
        f"bar: {row['bar']}; {row['command']}; seed {row['seed']}; {row['date']}; "
        f"others used {row['others_cores']} of {row['cores']} cores"
    )
