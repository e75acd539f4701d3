"""Builds and runs an image of the Dockerfile without a container engine, in plain folders; needs root and debootstrap.

    python deploy/check_image.py front --work /var/tmp/images
    python deploy/check_image.py worker --work /var/tmp/images --build-arg TORCH=cpu

Each stage is a folder: a copy of its parent (or of a clean Debian with this Python under /usr/local, which stands for
the python:slim base), in which every COPY, RUN, ENV, USER ... is executed in order. Then the image's own command is run
as the image's user with a read-only root, no capabilities and no-new-privileges, until its HEALTHCHECK passes, and is
stopped with SIGTERM; it must end with exit code 0. It checks the steps and the files, not an engine's isolation.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITE = "bookworm"
# What the python:slim image installs below its interpreter.
BASE_PACKAGES = "ca-certificates,libssl3,libffi8,libsqlite3-0,zlib1g,libbz2-1.0,liblzma5,libreadline8,netbase,tzdata"
VOLUMES = ("/tmp", "/var/lib/avesformer/spool", "/var/lib/avesformer/state", "/var/lib/avesformer/blobs")
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
HEALTH_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


@dataclass
class Stage:
    """One FROM of the Dockerfile and what its instructions made so far."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions as (word, rest), comments dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def parse(text: str) -> dict[str, Stage]:
    """The stages by name; ARGs before the first FROM are filled into the FROM lines."""
    stages: dict[str, Stage] = {}
    outer: dict[str, str] = {}
    stage: Stage | None = None
    for word, rest in instructions(text):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = Stage(name=name or "final", base=re.sub(r"\$\{(\w+)\}", lambda found: outer[found[1]], base))
            stages[stage.name] = stage
        elif stage is None:
            key, _, value = rest.partition("=")
            outer[key] = value
        else:
            stage.steps.append((word, rest))
    return stages


def context_files(root: Path = ROOT) -> list[str]:
    """What .dockerignore lets into the build context: `!name` lines of an allow list, less its trailing patterns."""
    lines = [line.strip() for line in (root / ".dockerignore").read_text().splitlines()]
    allowed = [line[1:].rstrip("/") for line in lines if line.startswith("!")]
    dropped = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    files = []
    for name in allowed:
        path = root / name
        found = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
        files += [
            str(entry.relative_to(root))
            for entry in found
            if not any(fnmatch.fnmatch(part, drop) for part in entry.parts for drop in dropped)
        ]
    return files


def run(*command: str | Path, **options: object) -> None:
    """Runs a host command; its failure ends the check."""
    subprocess.run([str(part) for part in command], check=True, **options)


def make_base(folder: Path, *, mirror: str) -> None:
    """A clean Debian with this interpreter (without its packages) under /usr/local, and a fresh pip."""
    run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", SUITE, folder, mirror)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = Path(sys.base_prefix)
    shutil.copytree(
        home / "lib" / version,
        folder / "usr/local/lib" / version,
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "__pycache__", "test", "config-*"),
    )
    for library in sorted((home / "lib").glob("libpython*.so*")):
        shutil.copy2(library, folder / "usr/local/lib", follow_symlinks=False)
    (folder / "usr/local/lib" / version / "site-packages").mkdir()
    shutil.copy2(home / "bin" / version, folder / "usr/local/bin" / version)
    for alias in ("python", "python3"):
        (folder / "usr/local/bin" / alias).symlink_to(version)
    in_root(
        folder, ["/bin/sh", "-c", "ldconfig && python -m ensurepip >/dev/null && ln -s pip3 /usr/local/bin/pip"], env={}
    )


def in_root(folder: Path, command: list[str], *, env: dict[str, str], user: str = "0:0", workdir: str = "/") -> None:
    """Runs one command as a build step would: in the folder as root file system, network reachable."""
    for name in ("/etc/resolv.conf", CERTIFICATES):  # an engine hands in the first; a proxy may need the second
        shutil.copy(name, folder / name.lstrip("/"))
    passed = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    passed["PIP_CERT"] = CERTIFICATES
    cells = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", **passed, **env}
    inner = f"mount -t proc proc {folder}/proc && mount --bind /dev {folder}/dev && exec {CHROOT}"
    step = [f"--userspec={user}", str(folder), "/bin/sh", "-c", f"cd {workdir} && exec {shlex.join(command)}"]
    run("unshare", "--mount", "--fork", "/bin/sh", "-c", inner + " " + shlex.join(step), env=cells)


class Builder:
    """Executes the stages that a target needs, each in a folder of its own."""

    def __init__(self, work: Path, *, base: Path, build_arguments: dict[str, str], find_links: Path | None) -> None:
        self._work, self._base = work, base
        self._build_arguments, self._find_links = build_arguments, find_links
        self._stages = parse((ROOT / "Dockerfile").read_text())
        self._built: dict[str, tuple[Stage, Path]] = {}

    def build(self, name: str) -> tuple[Stage, Path]:
        """Builds a stage and what it needs, once; returns it with its folder."""
        if name in self._built:
            return self._built[name]
        stage = self._stages[name]
        done, folder = self._work / name, self._work / f"{name}.building"
        for leftover in (done, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        parent = self._base
        if stage.base in self._stages:
            before, parent = self.build(stage.base)
            stage.env, stage.user, stage.workdir = dict(before.env), before.user, before.workdir
            stage.entrypoint = list(before.entrypoint)
        run("cp", "-a", "--reflink=auto", parent, folder)
        for word, rest in stage.steps:
            sys.stdout.write(f"[{name}] {word} {rest[:100]}\n")
            sys.stdout.flush()
            getattr(self, f"_{word.lower()}")(stage, folder, rest)
        folder.rename(done)
        self._built[name] = (stage, done)
        return stage, done

    def _run(self, stage: Stage, folder: Path, rest: str) -> None:
        env = {**stage.arguments, **stage.env}
        if self._find_links is not None:
            shutil.copytree(self._find_links, folder / "mnt/wheels", dirs_exist_ok=True)
            env |= {"PIP_FIND_LINKS": "/mnt/wheels", "PIP_RETRIES": "0"}
        in_root(folder, ["/bin/sh", "-c", rest], env=env, user=stage.user, workdir=stage.workdir)
        shutil.rmtree(folder / "mnt/wheels", ignore_errors=True)

    def _copy(self, stage: Stage, folder: Path, rest: str) -> None:
        *sources, target = [word for word in rest.split() if not word.startswith("--chmod=")]
        mode = re.search(r"--chmod=(\d+)", rest)
        destination = folder / target.lstrip("/")
        if sources[0].startswith("--from="):
            _, origin = self.build(sources.pop(0).removeprefix("--from="))
            run("cp", "-a", origin / sources[0].lstrip("/"), destination)
            return
        allowed = context_files()
        for source in sources:
            names = [name for name in allowed if name == source or name.startswith(source.rstrip("/") + "/")]
            if not names:
                raise SystemExit(f"COPY {source}: .dockerignore keeps it out of the context")
            for name in names:
                into = destination / Path(name).relative_to(source) if source.endswith("/") else destination
                into = into / Path(name).name if target.endswith("/") and not source.endswith("/") else into
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, into)
                if mode is not None:
                    into.chmod(int(mode[1], 8))

    def _env(self, stage: Stage, folder: Path, rest: str) -> None:
        stage.env |= dict(cell.split("=", 1) for cell in shlex.split(rest))

    def _arg(self, stage: Stage, folder: Path, rest: str) -> None:
        key, _, default = rest.partition("=")
        stage.arguments[key] = self._build_arguments.get(key, default)

    def _user(self, stage: Stage, folder: Path, rest: str) -> None:
        stage.user = rest

    def _workdir(self, stage: Stage, folder: Path, rest: str) -> None:
        stage.workdir = rest

    def _volume(self, stage: Stage, folder: Path, rest: str) -> None:
        """Mounted by `contained`."""
        assert set(json.loads(rest)) <= set(VOLUMES), rest

    def _label(self, stage: Stage, folder: Path, rest: str) -> None:
        """A label is only a note."""

    def _expose(self, stage: Stage, folder: Path, rest: str) -> None:
        """A port is only a note."""

    def _entrypoint(self, stage: Stage, folder: Path, rest: str) -> None:
        stage.entrypoint = shlex.split(rest.strip("[]").replace(",", " "))

    def _cmd(self, stage: Stage, folder: Path, rest: str) -> None:
        stage.command = shlex.split(rest.strip("[]").replace(",", " "))

    def _healthcheck(self, stage: Stage, folder: Path, rest: str) -> None:
        stage.healthcheck = shlex.split(rest.partition("CMD ")[2].strip("[]").replace(",", " "))


def contained(stage: Stage, folder: Path, command: list[str], *, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts a command as an engine would: read-only root, tmpfs volumes, image user, no capabilities."""
    mounts = [
        f"mount --rbind {folder} {folder}",
        f"mount -t proc proc {folder}/proc",
        f"mount --bind /dev {folder}/dev",
    ]
    mounts.append(f"mount -o remount,ro,bind {folder}")
    owner = "uid={},gid={}".format(*stage.user.split(":"))
    mounts += [f"mount -t tmpfs -o {owner} tmpfs {folder}{volume}" for volume in VOLUMES]
    uid, gid = stage.user.split(":")
    drop = f"setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
    inner = f"cd {stage.workdir} && exec {drop} {shlex.join(command)}"
    outer = " && ".join(mounts) + f" && exec {CHROOT} {folder} /bin/sh -c {shlex.quote(inner)}"
    return subprocess.Popen(["unshare", "--mount", "/bin/sh", "-c", outer], env={**stage.env, **env})


def smoke(stage: Stage, folder: Path, *, arguments: list[str], env: dict[str, str]) -> int:
    """Runs the image's command until it is healthy, then stops it; returns its exit code (1 if never healthy)."""
    process = contained(stage, folder, [*stage.entrypoint, *(arguments or stage.command)], env=env)
    end = time.monotonic() + HEALTH_TIMEOUT_S
    try:
        while process.poll() is None and time.monotonic() < end:
            time.sleep(1.0)
            if (
                subprocess.run([CHROOT, folder, *stage.healthcheck], env={**stage.env, **env}, check=False).returncode
                == 0
            ):
                sys.stdout.write("healthy\n")
                process.send_signal(signal.SIGTERM)
                return process.wait(STOP_TIMEOUT_S)
        return 1
    finally:
        if process.poll() is None:
            process.kill()


def main() -> int:
    """Builds the target, runs its command; 0 if it became healthy and stopped cleanly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=["front", "worker"])
    parser.add_argument("--work", type=Path, required=True, help="empty or earlier working folder")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--find-links", type=Path, help="folder of wheels, for hosts that reach no PyTorch index")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="environment of the command")
    parser.add_argument("--cmd", type=shlex.split, help="instead of the image's CMD, in one word")
    parser.add_argument("--build-only", action="store_true", help="do not run it")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    base = work / "base"
    if not base.exists():
        make_base(base, mirror=options.mirror)
    builder = Builder(
        work,
        base=base,
        build_arguments=dict(cell.split("=", 1) for cell in options.build_arg),
        find_links=options.find_links,
    )
    stage, folder = builder.build(options.target)
    if options.build_only:
        return 0
    environment = dict(cell.split("=", 1) for cell in options.env)
    return smoke(stage, folder, arguments=options.cmd or [], env=environment)


if __name__ == "__main__":
    sys.exit(main())
