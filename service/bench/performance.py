"""Fill a column of docs/performance.md: tests of the device, `avesformer bench` on it, the table as Markdown.

    python -m service.bench.performance --device cuda --json gpu.json
    python -m service.bench.performance --column "2 cores=cpu.json" --column "GPU=gpu.json"

Ends within eight minutes: a step that is late is killed and the command fails. With another device than
cuda the tests of a GPU are collected and not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from service.bench.performance_table import markdown
from service.bench.processes import cli_command

_ROOT = Path(__file__).parents[2]
# Longest seconds of each step; together under eight minutes.
_TESTS_S, _BENCH_S = 150.0, 300.0
# Folders with tests of the marker gpu.
_GPU_TESTS = ("tests/numerics", "tests/unit/model/data/world")
_STDERR = 2  # descriptor
# pytest's exit status where no test has the marker.
_NO_TESTS_COLLECTED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 1 if a step failed or was late."""
    chosen = _parser().parse_args(arguments)
    columns = dict(column.split("=", 1) for column in chosen.column)
    if chosen.device:
        try:
            _run_tests(chosen.device)
            _run_bench(chosen.device, chosen.json, seconds=chosen.seconds, only=chosen.only)
        except subprocess.SubprocessError as error:
            Console(stderr=True).print(f"a step failed: {error}", markup=False)
            return 1
        columns[chosen.device] = str(chosen.json)
    figures = {title: json.loads(Path(path).read_bytes()) for title, path in columns.items()}
    sys.stdout.write(markdown(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.bench.performance", description=__doc__)
    parser.add_argument("--device", help="cuda, cuda:N or cpu: test and measure it; without it only print a table")
    parser.add_argument("--json", type=Path, default=Path("performance.json"), help="file of the measured figures")
    parser.add_argument("--seconds", type=float, default=2.0, help="about, per figure")
    parser.add_argument("--only", default="model,decode,rle,batcher,start,service", help="parts of avesformer bench")
    parser.add_argument("--column", action="append", default=[], metavar="TITLE=FILE", help="another column's figures")
    return parser


def _run_tests(device: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", *_GPU_TESTS]
    command += [] if device.startswith("cuda") else ["--collect-only"]
    status = subprocess.run(command, cwd=_ROOT, stdout=_STDERR, timeout=_TESTS_S).returncode
    if status not in (0, _NO_TESTS_COLLECTED):
        raise subprocess.CalledProcessError(status, command)


def _run_bench(device: str, target: Path, *, seconds: float, only: str) -> None:
    command = cli_command("bench", "--device", device, "--json", str(target), "--seconds", str(seconds), "--only", only)
    subprocess.run(command, check=True, stdout=_STDERR, timeout=_BENCH_S)


if __name__ == "__main__":
    raise SystemExit(main())
