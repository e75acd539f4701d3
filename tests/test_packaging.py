"""What an editable install brings: our import names are ours alone here, and the client comes without the service."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = "avesformer-service"
SERVICE_ONLY = {"fastapi", "starlette", "uvicorn", "torch", "transformers", "av", "numpy", "redis", "prometheus-client"}
SERVICE_MODULES = {"fastapi", "starlette", "uvicorn", "torch", "av", "cv2", "numpy", "redis"}

RUN_ALONE = """
import importlib, importlib.abc, pkgutil, sys
absent = set(sys.argv[1].split(","))

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
IMPORT_CLIENT = """
import service.client
for module in pkgutil.iter_modules(service.client.__path__):
    if module.name != "live_example":
        importlib.import_module(f"service.client.{module.name}")
from service.client.connect import open_client
for url in ("http://127.0.0.1:9", "grpc://127.0.0.1:9"):
    open_client(url).close()
"""
RUN_COMMAND = """
from service.cli.main import main
sys.argv = ["avesformer", *sys.argv[2:]]
main()
"""


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def brought_by(requirements: Iterable[str], extras: frozenset[str] = frozenset()) -> set[str]:
    """The distributions that requirements bring along here, theirs included."""
    found: set[str] = set()
    for requirement in map(Requirement, requirements):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": name}) for name in extras or {""}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            needs = distribution(name).requires or ()
            found |= {name} | brought_by(needs, frozenset(requirement.extras))
    return found


def alone(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run with nothing importable but the standard library, our code and what `.[client]` brings."""
    present = brought_by(client_requirements()) | {OURS}
    absent = [
        module
        for module, names in packages_distributions().items()
        if not present & {canonicalize_name(name) for name in names}
    ]
    assert set(absent) >= SERVICE_MODULES
    command = [sys.executable, "-c", RUN_ALONE + script, ",".join(absent), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def client_requirements() -> list[str]:
    """Of `pip install '.[client]'`."""
    return [*project()["dependencies"], *project()["optional-dependencies"]["client"]]


def test_no_other_distribution_provides_our_names() -> None:
    providers = packages_distributions()
    for name in ("service", "model"):
        assert {canonicalize_name(found) for found in providers.get(name, ())} <= {OURS}
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin == str(ROOT / name / "__init__.py")


def test_the_client_brings_neither_torch_nor_fastapi() -> None:
    brought = brought_by(client_requirements())
    assert {"grpcio", "httpx", "protobuf"} <= brought
    assert not brought & SERVICE_ONLY


def test_the_extras_add_up() -> None:
    """`.[model]` is all that `serve` needs; every dependency is declared once."""
    extras = project()["optional-dependencies"]
    assert f"{OURS}[front]" in extras["model"]
    named = [canonicalize_name(Requirement(text).name) for text in [*client_requirements(), *extras["front"]]]
    assert len(named) == len(set(named))


def test_the_client_runs_with_what_it_brings() -> None:
    done = alone(IMPORT_CLIENT)
    assert done.returncode == 0, done.stderr


def test_the_command_asks_a_service_with_what_the_client_brings() -> None:
    """The client looks at the address, so no module was missing on the way there."""
    clip = str(ROOT / "tests" / "assets" / "example.mp4")
    done = alone(RUN_COMMAND, "segment", clip, "--url", "ftp://127.0.0.1:9")
    assert done.returncode == 2
    assert re.fullmatch(r"avesformer: 'ftp://127\.0\.0\.1:9' is not an address.*\n", done.stderr)


@pytest.mark.parametrize("command", [["serve"], ["segment", "clip.mp4"]])
def test_what_the_client_cannot_do_says_what_to_install(command: list[str]) -> None:
    done = alone(RUN_COMMAND, *command)
    assert done.returncode == 1
    assert re.fullmatch(r"avesformer: `avesformer \w+` needs the package '\w+'.*\.\[model\]'\n", done.stderr)
