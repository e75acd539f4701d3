"""The wheel, built from what the Dockerfile copies and installed away from the repository."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fleets.deploy_files import ROOT, load_script

pytestmark = pytest.mark.timeout(900)

CLIP = ROOT / "tests" / "assets" / "example.mp4"
GUARD_S = 300
IMPORT_ALL = """
import importlib, pkgutil, sys
import avesformer.service, avesformer.model
for package in (avesformer.service, avesformer.model):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith((".__main__", ".tflite", "otlp")):
            importlib.import_module(module.name)
ours = {name.partition(".")[0] for name in sys.modules}
assert not ours & {"service", "model"}, ours
print(len([name for name in sys.modules if name.startswith("avesformer.")]))
"""
ASK = """
import sys
from pathlib import Path
from avesformer_client import Client, SegmentOptions, ServiceError, open_client
from avesformer_client.convert import mask_pixels
for opened in (Client(sys.argv[2]), open_client("grpc://" + sys.argv[3])):
    with opened as client:
        answer = client.segment(Path(sys.argv[1]), SegmentOptions(fps=2))
        areas = [mask_pixels(mask).sum() for frame in answer.frames for mask in frame.masks]
        print(answer.model.variant, len(answer.frames), sum(areas))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A virtual environment with one wheel of ours, and the dependencies of the tests' own environment."""

    folder: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its processes: none of ours, none of Python's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AVES_", "PYTHON"))}
        return kept | {"OMP_NUM_THREADS": "1", "AVES_STATE_DIR": str(self.folder / "state")}

    def run(self, *command: str) -> str:
        """Run a command outside of the repository; returns its output."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=GUARD_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def pip(*arguments: str) -> None:
    """Run the tests' pip, offline."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert done.returncode == 0, done.stderr


def copied_by_the_dockerfile(target: Path) -> Path:
    """Copy what the build stage of the Dockerfile copies, and nothing else."""
    steps = load_script("check_image.py").parse((ROOT / "Dockerfile").read_text())["build"].steps
    copied = [path for word, rest in steps if word == "COPY" for path in rest.split()[:-1]]
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *copied]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((ROOT / name).read_bytes())
    return target


def installed(wheel: Path, folder: Path) -> Place:
    """Install a wheel alone; everything else comes from the tests' environment, whose editable install does not."""
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # Paths that come from a .pth file are searched, but their own .pth files are not read.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip("--python", str(folder / "bin" / "python"), "install", "--no-deps", "--force-reinstall", str(wheel))
    return Place(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_by_the_dockerfile(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    return next(target.iterdir())


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return installed(wheel, tmp_path_factory.mktemp("place"))


def test_the_wheel_has_our_two_names_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"avesformer", "avesformer_client"}
    for path in (
        "service/rest/static/page.js",
        "service/rest/static/viewer/viewer.css",
        "model/weights/lite.safetensors",
        "service/rpc/pb/avesformer/v1/segmentation_pb2.py",
    ):
        assert f"avesformer/{path}" in names
    assert {"avesformer/py.typed", "avesformer_client/py.typed"} <= {*names}


def test_the_record_fits_the_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        record = next(name for name in opened.namelist() if name.endswith("/RECORD"))
        lines = list(csv.reader(opened.read(record).decode().splitlines()))
        assert sorted(name for name, _, _ in lines) == sorted(opened.namelist())
        for name, digest, size in lines:
            if name != record:
                data = opened.read(name)
                hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert (digest, size) == (f"sha256={hashed}", str(len(data)))


def test_every_module_imports_under_its_new_name(place: Place) -> None:
    num_sources = sum(1 for top in ("service", "model") for _ in (ROOT / top).rglob("*.py"))
    assert int(place.run(place.python, "-c", IMPORT_ALL)) > num_sources - 10


def test_the_command_serves_and_the_client_asks(place: Place) -> None:
    avesformer = str(place.folder / "bin" / "avesformer")
    assert "segment" in place.run(avesformer, "--help")
    with serving(place, avesformer) as (url, grpc_target):
        lines = place.run(place.python, "-c", ASK, str(CLIP), url, grpc_target).split("\n")
        place.run(avesformer, "segment", str(CLIP), "--url", url, "--fps", "2", "--output", "asked.json")
    asked = json.loads((place.folder / "asked.json").read_text())
    areas = sum(mask["area"] for frame in asked["frames"] for mask in frame["masks"])
    assert areas > 0
    assert lines[:2] == [f"lite {len(asked['frames'])} {areas}"] * 2


@contextmanager
def serving(place: Place, avesformer: str) -> Iterator[Sequence[str]]:
    """Run `avesformer serve` with its defaults on free ports; yields its address over HTTP and over gRPC."""
    command = [avesformer, "serve", "--port", "0", "--grpc-port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=place.folder, env=place.environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"ready: (\S+) .*gRPC: ([^;]+);", line)
            if found is not None:
                break
        else:
            pytest.fail("".join(lines))
        yield found.groups()
    finally:
        process.terminate()
        process.communicate(timeout=GUARD_S)
    assert process.returncode == 0


def built(hook: str, source: Path, target: Path) -> str:
    """Call a hook of the build backend as pip does; returns the name of the file that it wrote."""
    call = f"import namespaced_wheel, sys; print(namespaced_wheel.{hook}(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": str(source / "deploy" / "wheel")}
    command = [sys.executable, "-c", call, str(target)]
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=GUARD_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2]


def test_an_editable_install_keeps_the_repositorys_names(source: Path, tmp_path: Path) -> None:
    place = installed(tmp_path / built("build_editable", source, tmp_path), tmp_path / "place")
    code = (
        "import avesformer_client, service, avesformer_client.convert as c; print(service.__file__, c.plot.__module__)"
    )
    where, module = place.run(place.python, "-c", code).split()
    assert Path(where) == source / "service" / "__init__.py"
    assert module == "service.client.convert.plot"
    assert "segment" in place.run(str(place.folder / "bin" / "avesformer"), "--help")


def test_the_source_archive_can_be_built(source: Path, tmp_path: Path) -> None:
    (source / "MANIFEST.in").write_bytes((ROOT / "MANIFEST.in").read_bytes())
    name = built("build_sdist", source, tmp_path)
    with tarfile.open(tmp_path / name) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"deploy/wheel/namespaced_wheel.py", "deploy/wheel/rename_imports.py", "service/client/public.py"} <= names
