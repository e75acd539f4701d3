"""Coverage-guided fuzzing of what reads strangers' bytes, with atheris (`make fuzz`, FUZZ_ARGS="--only form").

Each target of `support/fuzz_targets.py` runs in a process of its own for some seconds. It starts from its corpus in
`tests/assets/fuzz`, which the test suite replays, and from what earlier runs found (`build/fuzz`). libFuzzer reads
folders inside a corpus too. A finding is written to `build/fuzz` and printed.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ROOT / "tests" / "assets" / "fuzz"
FOUND = ROOT / "build" / "fuzz"
# Larger inputs are slower and reach little more; the pre-scan's are whole files.
_MAX_BYTES = {"prescan": 4096}
_USUAL_MAX_BYTES = 1024
NAMES = ("prescan", "form", "rle", "options", "child", "live")
# Imports the targets with every branch counted, then hands over to libFuzzer, which ends the process.
_CHILD = """
import sys
import atheris
with atheris.instrument_imports(include=["service", "python_multipart"]):
    from support import fuzz_targets
target = fuzz_targets.TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, target)
atheris.Fuzz()
"""


def fuzz(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run libFuzzer on a target."""
    command = [sys.executable, "-c", _CHILD, name, f"-max_len={_MAX_BYTES.get(name, _USUAL_MAX_BYTES)}", *options]
    environment = {"PYTHONPATH": f"{ROOT}/tests:{ROOT}", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def search(name: str, *, seconds: int, seed: int) -> bool:
    """Look for findings for some seconds; prints what was done. False if there is one."""
    own = FOUND / name
    own.mkdir(parents=True, exist_ok=True)
    limits = (f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=20", "-rss_limit_mb=2048")
    done = fuzz(name, str(own), str(CORPORA / name), *limits, f"-artifact_prefix={own}-", "-print_final_stats=1")
    num_runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    date = datetime.datetime.now(datetime.UTC).date()
    figures = f"{num_runs[1] if num_runs else 0} inputs, {coverage[-1] if coverage else 0} branches"
    verdict = "pass" if done.returncode == 0 else f"FAIL\n{done.stderr[-3000:]}"
    print(f"{name}: {figures}, {seconds} s, seed {seed}, {date}: {verdict}", flush=True)  # noqa: T201  # its output
    return done.returncode == 0


def main() -> int:
    """Parse the command line and run; exit code 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    names = given.only or NAMES
    return int(not all([search(name, seconds=given.seconds, seed=given.seed) for name in names]))


if __name__ == "__main__":
    sys.exit(main())
