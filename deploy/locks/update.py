"""Writes the locked requirements of the images: exact versions, every wheel's hash.

    pip install uv==0.13.9 && python deploy/locks/update.py

`front.txt` is the extra `front`, `model.txt` what the worker needs on top of it, `torch-cuda.txt` PyTorch
with its CUDA libraries, `torch-cpu.txt` its CPU build of the same version (from PyTorch's own index) and `build.txt`
what building our wheel needs. Each pin has the hashes of all wheels that the index offers for that version and the
images' platform. The files name no index, so a mirror set in the environment works; `--cpu-wheels FOLDER` takes the CPU
build from a folder of wheels where PyTorch's index cannot be reached, and writes `torch-cpu.txt` alone.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deploy" / "locks"
# The images', see the Dockerfile.
PLATFORM = ("--python-version", "3.11.14", "--python-platform", "x86_64-manylinux_2_28")
HEADER = "# Made by deploy/locks/update.py from pyproject.toml; do not edit.\n"
# Says in `torch-cpu.txt` that its hashes were not taken from the index.
FROM_WHEELS = (
    "# The hash is that of a wheel at hand (--cpu-wheels): CPython 3.11 on x86-64 Linux, the images' only platform.\n"
    "# PyTorch's index could not be reached to compare it; other platforms (aarch64) are not covered.\n"
)
# Left out of the images: training curves (and the web server that they bring along), and the pictures of AVSBench.
TRAINING_ONLY = ("pillow", "tensorboard")
CPU_INDEX = ("--extra-index-url", "https://download.pytorch.org/whl/cpu", "--index-strategy", "unsafe-best-match")
TORCH_STACK = re.compile(r"(torch|triton|cuda-|nvidia-)")
NAME = re.compile(r"[a-z0-9-]+")
OWN_EXTRA = re.compile(r"avesformer-service\[([a-z]+)\]")


def resolve(requirements: str, *options: str) -> dict[str, str]:
    """Resolve requirements; return each package's block of the lock (its pin and hashes) by its name."""
    quiet = ("--no-header", "--no-annotate", "--no-emit-index-url", "--quiet")
    command = ["uv", "pip", "compile", "-", *PLATFORM, "--only-binary", ":all:", "--generate-hashes", *quiet, *options]
    done = subprocess.run(command, input=requirements, text=True, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    blocks = [block for block in re.split(r"(?m)^(?=[a-z0-9])", done.stdout) if block.strip()]
    without = [block for block in blocks if "--hash=" not in block]
    if without:
        raise SystemExit(f"the index gives no hash for {''.join(without)}")
    return {NAME.match(block)[0]: block for block in blocks}


def requirements_of(extra: str) -> list[str]:
    """The project's own requirements and those of one extra, with the extras that it names itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = [*project["dependencies"]]
    for requirement in project["optional-dependencies"][extra]:
        own = OWN_EXTRA.fullmatch(requirement)
        if own:
            found += requirements_of(own[1])
        elif not requirement.startswith(TRAINING_ONLY):
            found.append(requirement)
    return found


def write(name: str, blocks: dict[str, str], *, note: str = "") -> None:
    """Writes one lock file, sorted by package, with a note behind the header."""
    (LOCKS / name).write_text(HEADER + note + "".join(blocks[key] for key in sorted(blocks)))
    sys.stdout.write(f"{name}: {len(blocks)} packages\n")


def hashed_wheels(folder: Path, version: str) -> str:
    """Return the pin of PyTorch's CPU build with the hashes of its wheels for the images' platform in a folder."""
    wheels = sorted(folder.glob(f"torch-{version}+cpu-cp311-*x86_64.whl"))
    if not wheels:
        raise SystemExit(f"{folder} has no CPU wheel of torch {version} for CPython 3.11 on x86-64 Linux")
    hashes = [f" \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" for wheel in wheels]
    return f"torch=={version}+cpu{''.join(sorted(hashes))}\n"


def main() -> None:
    """The worker is resolved whole and the front takes its versions, so both images agree on what they share."""
    worker = resolve("\n".join(requirements_of("model")))
    front_names = resolve("\n".join(requirements_of("front")))
    front = {name: worker[name] for name in front_names}
    rest = {name: block for name, block in worker.items() if name not in front}
    write("front.txt", front)
    write("model.txt", {name: block for name, block in rest.items() if not TORCH_STACK.match(name)})
    write("torch-cuda.txt", {name: block for name, block in rest.items() if TORCH_STACK.match(name)})
    version = re.search(r"torch==([0-9.]+)", rest["torch"])[1]
    cpu = resolve(f"torch=={version}+cpu", "--no-deps", *CPU_INDEX)
    write("torch-cpu.txt", {"torch": cpu["torch"]})
    write("build.txt", resolve("setuptools>=77\nwheel"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cpu-wheels"]:
        locked = re.search(r"(?m)^torch==([0-9.]+)", (LOCKS / "torch-cuda.txt").read_text())[1]
        write("torch-cpu.txt", {"torch": hashed_wheels(Path(sys.argv[2]), locked)}, note=FROM_WHEELS)
    else:
        main()
